"""The reference contains exactly the public names."""

import ast
import importlib
import inspect
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from .test_exports import PUBLIC

_ROOT = Path(__file__).parents[2]
_SOURCE = _ROOT / "src"
_PAGES = {page: page.read_text() for page in _ROOT.glob("docs/reference/*.rst")}

# The modules whose names are public; everything else is private.
_MODULES = PUBLIC.keys() | {
    "fast_channels.lifespan",
    "fast_channels.middleware",
    "fast_channels.pytest_plugin",
    "fast_channels.routing",
    "fast_channels.worker",
}
# Classes that public names return or inherit from; users need not import them.
_RETURNED = {
    "fast_channels.consumer.base.ConsumerApplication",
    "fast_channels.consumer.groups.AsyncGroupConsumer",
    "fast_channels.consumer.websocket.Connection",
    "fast_channels.layers.mailbox.Mailbox",
    "fast_channels.testing.http.HttpResponse",
}
_DIRECTIVE = re.compile(
    r"^\.\. (?:auto)?(?:class|data|exception|function|type):: ([\w.]+)", re.MULTILINE
)
_DOCUMENTED = sorted(
    name for text in _PAGES.values() for name in _DIRECTIVE.findall(text)
)
# The modules of types that a page defines itself, as they have no docstring at run
# time.
_ALIASES = {
    "fast_channels.type_defs": ["fast_channels/type_defs.py"],
    "fast_channels.layers.redis.type_defs": [
        "fast_channels/layers/redis/hosts.py",
        "fast_channels/layers/redis/type_defs.py",
    ],
}


def find(name: str) -> object:
    """Return the object with a full name."""
    module, _, attribute = name.rpartition(".")
    found: object = getattr(importlib.import_module(module), attribute)
    return found


def identity(name: str) -> object:
    """Return a key that is equal for all modules that export an object."""
    found = find(name)
    if inspect.isclass(found) or inspect.isfunction(found):
        return found
    return name


def public_names() -> Iterator[str]:
    """Yield the full names of all public objects."""
    for module in sorted(_MODULES):
        for name in importlib.import_module(module).__all__:
            yield f"{module}.{name}"


def aliases(module: str) -> Iterator[tuple[str, str, str]]:
    """Yield the names, values and docstrings of the type aliases of a module."""
    texts = [(_SOURCE / path).read_text() for path in _ALIASES[module]]
    body = [statement for text in texts for statement in ast.parse(text).body]
    for statement, docstring in itertools.pairwise(body):
        match statement, docstring:
            case (
                ast.AnnAssign(
                    target=ast.Name(name), annotation=ast.Name("TypeAlias"), value=value
                ),
                ast.Expr(ast.Constant(str(text))),
            ) if value is not None:
                yield f"{module}.{name}", ast.unparse(value), text
            case _:
                pass


def test_every_public_name_is_documented() -> None:
    """Every export of a public module has an entry in the reference."""
    documented = {identity(name) for name in _DOCUMENTED}
    missing = [name for name in public_names() if identity(name) not in documented]
    assert missing == []


def test_nothing_private_is_documented() -> None:
    """Every entry in the reference is exported by a public module."""
    public = {*public_names(), *_RETURNED}
    assert [name for name in _DOCUMENTED if name not in public] == []


def test_nothing_is_documented_twice() -> None:
    """A name has one entry, so that all references lead to it."""
    entries = [identity(name) for name in _DOCUMENTED]
    assert [
        name
        for name, entry in zip(_DOCUMENTED, entries, strict=True)
        if entries.count(entry) > 1
    ] == []


@pytest.mark.parametrize("module", sorted(_MODULES - {"fast_channels"}))
def test_every_public_module_has_an_entry(module: str) -> None:
    """A public module has its own entry, which shows its docstring."""
    entry = re.compile(rf"^\.\. (?:auto)?module:: {re.escape(module)}$", re.MULTILINE)
    assert sum(len(entry.findall(text)) for text in _PAGES.values()) == 1
    assert importlib.import_module(module).__doc__


@pytest.mark.parametrize("name", _DOCUMENTED)
def test_members_have_docstrings(name: str) -> None:
    """Every member that the reference shows has a docstring."""
    found = find(name)
    if not inspect.isclass(found):
        return
    assert found.__doc__
    members = [
        member
        for member, value in vars(found).items()
        if not member.startswith("_")
        and (inspect.isroutine(value) or isinstance(value, property))
    ]
    assert [each for each in members if not inspect.getdoc(getattr(found, each))] == []


@pytest.mark.parametrize("module", _ALIASES)
def test_types_match_the_code(module: str) -> None:
    """The aliases that a page defines itself are equal to those in the code."""
    text = " ".join(" ".join(_PAGES.values()).split())
    text = re.sub(r"~(?:collections\.abc|typing)\.|~(?=re\.)", "", text)
    public = set(importlib.import_module(module).__all__)
    for name, value, docstring in aliases(module):
        if name.rpartition(".")[2] in public:
            said = " ".join(docstring.split())
            assert f".. type:: {name} :canonical: {value} {said}" in text


def test_options_of_the_worker_are_documented() -> None:
    """The reference has every argument of the worker's command line."""
    command = [sys.executable, "-m", "fast_channels.worker", "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = set(re.findall(r"--[a-z-]+", text)) - {"--help"}
    page = _PAGES[_ROOT / "docs" / "reference" / "worker.rst"]
    assert options == set(re.findall(r"^\.\. option:: (--[a-z-]+)", page, re.MULTILINE))


_PACKAGE = _SOURCE / "fast_channels"
_DESIGN = (_ROOT / "docs/topics/design.rst").read_text("utf-8")
_STEPS = re.findall(
    r"^   \* - ``(\S+\.py|\S+/\S+)``\n     - (``.+``)$", _DESIGN, re.MULTILINE
)


@pytest.mark.parametrize(("path", "functions"), _STEPS)
def test_steps_of_the_design_exist(path: str, functions: str) -> None:
    """Each file and function in the steps of the page exists."""
    file = _PACKAGE / path
    for function in re.findall(r"``([^`]+)``", functions):
        if file.is_dir():
            assert (file / function).is_file()
            continue
        name = ".".join(("fast_channels", *file.relative_to(_PACKAGE).parts))
        found: object = importlib.import_module(
            name.removesuffix(".py").removesuffix(".__init__")
        )
        for part in function.split("."):
            found = getattr(found, part)


def test_paths_of_the_design_exist() -> None:
    """Each file that the page names exists."""
    assert len(_STEPS) > 25
    for path in re.findall(r"``((?:\w+/)+\w+\.(?:py|lua))``", _DESIGN):
        assert (_PACKAGE / path).is_file(), path
