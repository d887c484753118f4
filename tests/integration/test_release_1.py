"""Compatibility with code written for fast-channels 1.1.0."""

import ast
import importlib
import json
import re
from pathlib import Path

import pytest

from tests.release_1.introspect import Api, find_parameters

_ROOT = Path(__file__).parents[2]
_API: Api = json.loads((_ROOT / "tests" / "release_1" / "api.json").read_text())
_PAGE = (_ROOT / "docs" / "guides" / "from-1.x.rst").read_text()


def section(title: str) -> set[str]:
    """Return the full names in the first column of a section of the page.

    ``A.{b, c}`` stands for A.b and A.c.
    """
    _, _, text = _PAGE.partition(f"\n{title}\n---")
    text = re.split(r"\n[=-]{3,}\n", text)[0]
    cells = re.findall(r"^   \* - (.*(?:\n       .*)*)", text, re.MULTILINE)
    names: set[str] = set()
    for name in re.findall(r"``(fast_channels[^`]+)``", " ".join(cells)):
        head, _, tail = name.partition("{")
        names |= {head + each for each in re.split(r",\s*", tail.rstrip("}"))}
    return names


def find(name: str) -> object:
    """Return the object with a full name; raise AttributeError if there is none."""
    parts = name.split(".")
    for count in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:count]))
        except ModuleNotFoundError:
            continue
        for part in parts[count:]:
            # The keys of a TypedDict are not attributes.
            keys = getattr(found, "__annotations__", {})
            found = keys[part] if part in keys else getattr(found, part)
        return found
    raise AttributeError(name)


def is_there(name: str) -> bool:
    try:
        find(name)
    except AttributeError:
        return False
    return True


def test_every_name_exists_or_is_listed_as_missing() -> None:
    """Each public name of 1.1.0 exists, or the guide says what to write instead."""
    missing = {name for name in _API if not is_there(name)}
    # A missing name includes its members.
    roots = {name for name in missing if name.rpartition(".")[0] not in missing}
    assert roots == section("Names that are missing")


def test_every_call_works_or_is_listed_as_changed() -> None:
    """All calls of 1.1.0 are accepted, or the guide lists the exceptions."""
    changed = {
        name
        for name, before in _API.items()
        if before is not None
        and is_there(name)
        and not accepts(find_parameters(find(name)), before)
    }
    assert changed == section("Arguments that are different")


def accepts(after: str | None, before: str) -> bool:
    """Return whether all arguments of `before` fit `after`, with the same meaning."""
    if after is None:
        return False
    new, old = parse(after), parse(before)
    new_names = [arg.arg for arg in new.args]
    old_names = [arg.arg for arg in old.args]
    if (old.vararg and not new.vararg) or (old.kwarg and not new.kwarg):
        return False
    if new_names[: len(old_names)] != old_names:
        return False
    extra = {*new_names[len(old_names) :], *(arg.arg for arg in new.kwonlyargs)}
    was, now = defaults(old), defaults(new)
    return (
        extra - {arg.arg for arg in old.kwonlyargs} <= now.keys()
        and {arg.arg for arg in old.kwonlyargs} <= extra
        and was.items() <= now.items()
    )


def parse(parameters: str) -> ast.arguments:
    (function,) = ast.parse(f"def f{parameters}: ...").body
    assert isinstance(function, ast.FunctionDef)
    return function.args


def defaults(parameters: ast.arguments) -> dict[str, str]:
    positional = parameters.args[len(parameters.args) - len(parameters.defaults) :]
    pairs = [
        *zip(positional, parameters.defaults, strict=True),
        *zip(parameters.kwonlyargs, parameters.kw_defaults, strict=True),
    ]
    return {arg.arg: ast.unparse(value) for arg, value in pairs if value is not None}


@pytest.mark.parametrize(
    ("after", "before", "expected"),
    [
        ("(self, a)", "(self, a)", True),
        ("(self, a, b=1)", "(self, a)", True),
        ("(self, a=1)", "(self, a)", True),
        ("(self, a, b)", "(self, a)", False),
        ("(self, a)", "(self, a=1)", False),
        ("(self, a=2)", "(self, a=1)", False),
        ("(self, b, a)", "(self, a, b)", False),
        ("(self, *, a=1)", "(self, a=1)", False),
        ("(self, a=1)", "(self, *, a=1)", True),
        ("(self)", "(self, *, a=1)", False),
        ("(self, *, a)", "(self)", False),
        ("(**kwargs)", "(*args, **kwargs)", False),
        (None, "()", False),
    ],
)
def test_accepts(after: str | None, before: str, expected: bool) -> None:
    """A signature is compatible if every former call works and means the same."""
    assert accepts(after, before) is expected
