"""The documentation says of each layer what the contract tests prove."""

from . import table


def test_table_of_delivery_is_that_of_the_flags() -> None:
    """The committed table is the one that the flags of the layers make."""
    assert table.PATH.read_text() == table.render(), (
        "the flags have changed: run python -m tests.contract.table"
    )
