"""The code in README.rst, in docs and in the docstrings of the library runs.

Each page is a program: its blocks of Python run from top to bottom in one namespace, on
the Redis of the tests instead of localhost:6379. Their functions test_* are tests, and
each of them gets its own run of the page.

A block of Python that does not run has the reason in a comment above it::

    .. not run: needs Django

    .. code-block:: text
"""

import ast
import asyncio
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from sybil import Sybil
from sybil.document import Document, PythonDocStringDocument
from sybil.parsers.rest import DocTestParser, PythonCodeBlockParser

from fast_channels.layers import RedisChannelLayer, get_channel_layer
from fast_channels.layers.redis.serializers import registry
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.server import RedisServer

_CHECKOUT = Path(__file__).parents[2]
_REDIS = "localhost:6379"
_PAGES = {
    path.relative_to(_CHECKOUT).as_posix(): path
    for path in (_CHECKOUT / "README.rst", *sorted(_CHECKOUT.glob("docs/**/*.rst")))
    if "_build" not in path.parts
}
_MODULES = {
    path.relative_to(_CHECKOUT).as_posix(): path
    for path in sorted(_CHECKOUT.glob("src/**/*.py"))
}
# The folders whose files pages can include: their own tests run them.
_INCLUDED = ("docs/tutorial/code/", "examples/", "src/", "tests/")


def _parse(path: Path) -> Document:
    return Sybil(
        parsers=[PythonCodeBlockParser(), DocTestParser()],
        document_types={".py": PythonDocStringDocument},
        path=str(path.parent),
    ).parse(path)


def _sources(path: Path) -> list[str]:
    """Return the blocks that will run."""
    return [str(getattr(e.parsed, "source", e.parsed)) for e in _parse(path).examples()]


def _tests() -> list[tuple[str, str]]:
    """Return the page and the name of each test that pages define."""
    return [
        (page, name)
        for page, path in _PAGES.items()
        for source in _sources(path)
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", source, re.MULTILINE)
    ]


@pytest.fixture(scope="module")
def redis(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    """One server for all pages, which can use any key."""
    with RedisServer(redis_binary) as server:
        yield server


@pytest.fixture
def namespace(
    request: pytest.FixtureRequest,
    page: str,
    redis: RedisServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[dict[str, Any]]:
    """Run a page, up to a test if one is given, and return its definitions."""
    monkeypatch.delenv("REDIS_URL", raising=False)
    # Drop the formats that a page registers.
    monkeypatch.setattr(registry, "_classes", {**vars(registry)["_classes"]})
    until = request.node.callspec.params.get("name")
    runs = tmp_path / Path(page).name
    text = _PAGES[page].read_text()
    runs.write_text(text.replace(_REDIS, f"{redis.host}:{redis.port}"))
    document = _parse(runs)
    document.namespace = vars(ModuleType(runs.stem.replace("-", "_")))
    for example in document.examples():
        example.evaluate()
        if until in document.namespace:
            break
    yield document.namespace
    redis.command("FLUSHALL")


@pytest.fixture
def arguments(
    request: pytest.FixtureRequest, namespace: dict[str, Any], name: str
) -> dict[str, Any]:
    """Return the fixtures that a test of a page uses."""
    names = inspect.signature(namespace[name]).parameters
    return {argument: request.getfixturevalue(argument) for argument in names}


@pytest.mark.parametrize("page", _PAGES)
@pytest.mark.usefixtures("namespace")
async def test_page_runs() -> None:
    """Every block of Python in a page runs, and leaves no task behind."""


@pytest.mark.parametrize(("page", "name"), _tests())
async def test_test_of_a_page_passes(
    namespace: dict[str, Any], name: str, arguments: dict[str, Any]
) -> None:
    """Every test in a page passes with the definitions above it."""
    test = namespace[name]
    if inspect.iscoroutinefunction(test):
        await test(**arguments)
    else:
        await asyncio.to_thread(test, **arguments)


def test_tests_of_a_page_have_unique_names() -> None:
    """No test in a page replaces another one."""
    assert sorted(_tests()) == sorted(set(_tests()))


@pytest.mark.parametrize("page", ["README.rst"])
async def test_readme_script_reaches_the_group(namespace: dict[str, Any]) -> None:
    """The script and the task in README.rst reach another process."""
    layer = get_channel_layer()
    assert isinstance(layer, RedisChannelLayer)
    async with layer:
        channel = await layer.new_channel()
        await layer.group_add("room.lobby", channel)
        await asyncio.to_thread(asyncio.run, namespace["announce"]("from a script"))
        await asyncio.to_thread(namespace["announce_from_a_task"], "from a task")
        texts = [(await layer.receive(channel))["text"] for _ in range(2)]
    assert texts == ["from a script", "from a task"]


@pytest.mark.parametrize("module", _MODULES)
def test_docstrings_run(module: str) -> None:
    """Every block of Python in the docstrings of a module runs; none is left out."""
    for example in _parse(_MODULES[module]).examples():
        example.evaluate()
    run = _sources(_MODULES[module])
    for docstring in _docstrings(_MODULES[module]):
        assert _left_out(docstring, run) == []


# No code is left out


# The block that follows a directive or a line that ends in "::", indented further; and,
# before it, the comment with the reason why it does not run.
_BLOCK = re.compile(
    r"""^
    (?P<reason>(?P<dots>[ ]*)\.\.[ ]not[ ]run:[ ].+\n (?:(?P=dots)[ ]{3}.*\n|\n)*)?
    (?P<indent>[ ]*)
    (?:\.\.[ ](?P<directive>[a-z-]+)::[ ]*(?P<language>.*) | (?!\.\.[ ]).*::)\n
    (?P<content>(?:\n|(?P=indent)[ ]+.*\n)+)
    """,
    re.MULTILINE | re.VERBOSE,
)
_CODE = {"code-block", "code", "sourcecode", None}
_PLAIN = {"", "text", "none", "default", "py", "python3", "pycon", None}
_INCLUDE = re.compile(r"^ *\.\. literalinclude:: +(.+)$", re.MULTILINE)
_OPTION = re.compile(r"\s*:[a-z-]+:.*\n")


def _blocks(text: str) -> Iterator[tuple[int, str | None, str, str]]:
    """Find all literal blocks: line, language, content, reason not to run."""
    position = 0
    while match := _BLOCK.search(text, position):
        directive, content = match["directive"], match["content"]
        if directive not in _CODE:
            # The content of a note, for example, can include code.
            position = match.start("content")
            continue
        position = match.end()
        while option := _OPTION.match(content):
            content = content[option.end() :]
        line = text.count("\n", 0, match.start("content"))
        yield line, match["language"], textwrap.dedent(content).strip(), match["reason"]


def _docstrings(path: Path) -> Iterator[str]:
    """Return the docstrings of a module, including those of attributes."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Expr(ast.Constant(str(docstring))):
                yield inspect.cleandoc(docstring) + "\n"
            case _:
                pass


def _is_python(source: str) -> bool:
    """Return whether a block is Python with more than expressions."""
    if ">>> " in source:
        return True
    try:
        statements = ast.parse(source).body
    except SyntaxError:
        return False
    return any(
        not isinstance(statement, ast.Expr)
        or isinstance(statement.value, ast.Await | ast.Call)
        for statement in statements
    )


def _left_out(text: str, run: list[str]) -> list[str]:
    waiting = [source.strip() for source in run]
    left_out: list[str] = []
    for line, language, source, reason in _blocks(text):
        if source in waiting:
            waiting.remove(source)
        elif not reason and (
            language == "python" or (language in _PLAIN and _is_python(source))
        ):
            left_out.append(f"line {line}: {source.splitlines()[0]}")
    return left_out


@pytest.mark.parametrize("page", _PAGES)
def test_no_code_of_a_page_is_left_out(page: str) -> None:
    """A block that looks like Python runs, or a comment above it says why not."""
    path = _PAGES[page]
    assert _left_out(path.read_text(), _sources(path)) == []


@pytest.mark.parametrize("page", _PAGES)
def test_included_files_are_tested(page: str) -> None:
    """Every included file exists, in a folder whose files the tests run."""
    path = _PAGES[page]
    for name in _INCLUDE.findall(path.read_text()):
        folder = _CHECKOUT / "docs" if name.startswith("/") else path.parent
        included = (folder / name.lstrip("/")).resolve()
        assert included.is_file(), name
        inside = included.relative_to(_CHECKOUT).as_posix()
        assert inside.startswith(_INCLUDED), name


@pytest.mark.parametrize(
    "text",
    [
        ".. code-block:: python\n\n   a = 1\n",
        ".. code-block:: text\n   :caption: a.py\n\n   import a\n",
        ".. note::\n\n   As in::\n\n       async def f(): ...\n",
        ".. code-block::\n\n   f()\n",
        "So::\n\n    >>> f()\n",
    ],
)
def test_code_that_is_left_out_is_found(text: str) -> None:
    """Code is found in each possible form, unless a comment has a reason."""
    assert len(_left_out(text, [])) == 1
    reason = ".. not run: needs\n   a\n\n"
    if not text.startswith(".. note"):
        assert _left_out(reason + text, []) == []
    assert _left_out(".. code-block:: bash\n\n   pip install a\n", []) == []
