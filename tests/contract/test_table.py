"""The documentation of each layer agrees with the contract tests."""

from . import table


def test_delivery_table_matches_the_flags() -> None:
    """The committed table is the one generated from the flags of the layers."""
    assert table.PATH.read_text() == table.render(), (
        "the flags have changed: run python -m tests.contract.table"
    )
