"""The delivery table of the documentation, from the flags of each layer.

After a change of the flags, regenerate it: ``python -m tests.contract.table``.
"""

import textwrap
from collections.abc import Iterator
from pathlib import Path

from fast_channels.testing.contract.base import ContractBase

from .test_layers import FORMS, OurContract

__all__ = ["PATH", "render"]

PATH = Path(__file__).parents[2] / "docs" / "topics" / "delivery_table.rst"
"""The path of the table."""

_BEGINNING = """\
.. Written by "python -m tests.contract.table" from the flags that the contract tests
   prove. Do not edit it.

"""
_LAYERS = {
    "memory": "In memory",
    "queue": "Queue in Redis",
    "queue of JSON": "Queue in Redis, with JSON",
    "pub/sub": "Pub/sub",
}
"""The names of the layers in column headings; the others differ in no flag."""
_WIDTH = 88


def _say(flag: str, so: str, otherwise: str) -> tuple[str, str, str]:
    return flag, so, otherwise


# For each flag: its subject, and the texts for layers with and without it.
_ROWS = {
    "prefixes_channels": _say(
        "The name of a new channel",
        "Starts with the ``prefix`` of the layer",
        "Starts with the argument of ``new_channel()``",
    ),
    "send_refuses_when_full": _say(
        "``send()`` to a full channel with a ``!``",
        "Raises :exc:`~fast_channels.exceptions.ChannelFull`",
        "Drops the message in the receiving process",
    ),
    "any_name_is_valid": _say(
        "Names of channels and groups",
        "Any str that is not empty",
        "ASCII letters, digits, ``.``, ``_`` and ``-``, shorter than 100",
    ),
    "keeps_messages_for_later_receivers": _say(
        "A message to a plain channel without a receiver so far",
        "Waits for its first receiver",
        "Is lost",
    ),
    "carries_bytes": _say(
        "A message that holds bytes",
        "Is carried",
        "Is refused with :exc:`TypeError`",
    ),
}


def render() -> str:
    """Return the table, and the layers of each of its columns."""
    columns = _columns()
    width = 100 // (len(columns) + 1)
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        "   :stub-columns: 1",
        f"   :widths: {' '.join([str(width)] * (len(columns) + 1))}",
        "",
        *_cells("", *(_LAYERS[column[0].name] for column in columns)),
    ]
    for flag in _flags():
        assert flag in _ROWS, f"describe here what the flag {flag!r} means for users"
        about, so, otherwise = _ROWS[flag]
        said = [so if getattr(column[0], flag) else otherwise for column in columns]
        lines += _cells(about, *said)
    names = [", ".join(backend.name for backend in column) for column in columns]
    lines += ["", "The contract tests prove each column for these layers:", ""]
    lines += [f"* {each}" for each in names]
    return _BEGINNING + "\n".join(lines) + "\n"


def _flags() -> list[str]:
    """Return the flags in which the layers differ."""
    flags = [
        flag for flag, kind in ContractBase.__annotations__.items() if kind is bool
    ]
    return [flag for flag in flags if len({getattr(form, flag) for form in FORMS}) > 1]


def _columns() -> list[list[type[OurContract]]]:
    """Return the layers, grouped by equal flags."""
    by_flags: dict[tuple[bool, ...], list[type[OurContract]]] = {}
    for form in FORMS:
        flags = tuple(getattr(form, flag) for flag in _flags())
        by_flags.setdefault(flags, []).append(form)
    order = list(_LAYERS)
    for first, *_ in by_flags.values():
        assert first.name in order, f"{first.name!r} has new flags: name it here"
    return sorted(by_flags.values(), key=lambda column: order.index(column[0].name))


def _cells(*texts: str) -> Iterator[str]:
    for number, text in enumerate(texts):
        beginning = f"   {'  ' if number else '* '}- "
        yield from textwrap.wrap(
            text,
            _WIDTH,
            initial_indent=beginning,
            subsequent_indent=" " * len(beginning),
            break_on_hyphens=False,
        ) or [beginning.rstrip()]


if __name__ == "__main__":
    PATH.write_text(render())
