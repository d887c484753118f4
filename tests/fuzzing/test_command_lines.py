"""Command lines of the worker."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fast_channels.worker.command_line import main

WORDS = st.one_of(
    st.text(max_size=10),
    st.sampled_from(
        [
            "jobs",
            "two words",
            "specific!1",
            f"{__name__}:application",
            f"{__name__}:nothing",
            f"{__name__}:",
            ":application",
            "no.such.module:application",
            ".:x",
            "os.path:join",
            "--concurrency",
            "--concurrency=0",
            "--shutdown-timeout",
            "nan",
            "-1",
            "1e400",
            "--layer",
            "--setup",
            "--setup=os:getcwd",
            "--log-level",
            "--log-level=debug",
            "--",
            "-h",
            "--help",
            "--x",
        ]
    ),
)


async def application(*_args: object) -> None:
    """Serve nothing."""


@given(st.lists(WORDS, max_size=6))
def test_command_lines(words: list[str]) -> None:
    """Without a layer, every command line ends with help, or with one line and 2."""
    with pytest.MonkeyPatch.context() as patch:
        written = io.StringIO()
        patch.setattr("sys.stderr", written)
        patch.setattr("sys.stdout", io.StringIO())
        with pytest.raises(SystemExit) as ended:
            main(words)
    output = written.getvalue()
    if ended.value.code == 0:
        assert {"-h", "--help"} & {word[: len("--help")] for word in words}
        return
    assert ended.value.code == 2
    assert output.count("error: ") >= 1
    assert "Traceback" not in output
