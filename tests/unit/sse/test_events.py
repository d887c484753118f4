"""The format of server-sent events."""

import importlib
import subprocess
import sys

import pytest

from fast_channels.sse import ServerSentEvent


@pytest.mark.parametrize(
    ("event", "text"),
    [
        (ServerSentEvent("hello"), "data: hello\n\n"),
        (ServerSentEvent(""), "data: \n\n"),
        (ServerSentEvent({"a": ["é", None]}), 'data: {"a":["é",null]}\n\n'),
        (ServerSentEvent(0), "data: 0\n\n"),
        (ServerSentEvent("1\n2\r\n3\r4"), "data: 1\ndata: 2\ndata: 3\ndata: 4\n\n"),
        (ServerSentEvent("a", event="b", id="c"), "event: b\nid: c\ndata: a\n\n"),
        (ServerSentEvent(id=""), "id: \n\n"),
        (ServerSentEvent(retry=2.5), "retry: 2500\n\n"),
        (ServerSentEvent(comment="one\ntwo"), ": one\n: two\n\n"),
        (ServerSentEvent(), "\n"),
    ],
)
def test_encoding(event: ServerSentEvent, text: str) -> None:
    """Each field is a line, and each line of the data is one too."""
    assert event.encode().decode() == text


@pytest.mark.parametrize("bad", ["a\nb", "a\rb", "a\0b"])
def test_line_breaks_in_fields(bad: str) -> None:
    """A type or an ID with a line break is refused: it could forge an event."""
    with pytest.raises(ValueError, match="the id of a server-sent event"):
        ServerSentEvent("a", id=bad).encode()
    with pytest.raises(ValueError, match="the event of a server-sent event"):
        ServerSentEvent("a", event=bad).encode()


def test_data_that_json_cannot_encode() -> None:
    """The error is that of json."""
    with pytest.raises(TypeError, match="not JSON serializable"):
        ServerSentEvent(b"bytes").encode()


def test_starlette_is_imported_only_for_its_response() -> None:
    """The package works without Starlette, even its consumer for event streams."""
    code = (
        "import sys, fast_channels.consumer, fast_channels.sse, fast_channels.lifespan;"
        "assert 'starlette' not in sys.modules;"
        "fast_channels.sse.EventStreamResponse;"
        "assert 'starlette' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_unknown_name() -> None:
    """A name that the module does not have is an AttributeError."""
    module = importlib.import_module("fast_channels.sse")
    with pytest.raises(AttributeError, match="'no_such_name'"):
        _ = module.no_such_name
