"""Scripts: their files, and how they run."""

import hashlib
import re
from importlib.resources import files
from typing import TYPE_CHECKING, Any, cast

import pytest
from redis.exceptions import NoScriptError, ResponseError

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis import scripts
from fast_channels.layers.redis.scripts import POP, Script, run

if TYPE_CHECKING:
    from fast_channels.layers.redis.commands import CommandConnection

TEXTS = {
    file.name: file.read_text("utf-8")
    for file in files(scripts).iterdir()
    if file.name.endswith(".lua")
}
SCRIPTS = {
    name: script for name, script in vars(scripts).items() if isinstance(script, Script)
}

# The beginning that several scripts share.
SHARED = {"clock.lua", "enqueue.lua", "numbering.lua", "processes.lua"}


class Redis:
    """Answers commands in order, with replies that a test chooses."""

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)
        self.commands: list[tuple[str | bytes | float, ...]] = []

    def deadline(self) -> float:
        return 8.5

    async def execute(
        self, *command: str | bytes | float, deadline: float | None
    ) -> Any:
        # A script that has to be sent in full gets no extra time.
        assert deadline == 8.5
        self.commands.append(command)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def run(self, *arguments: str | bytes | float) -> Any:
        return await run(cast("CommandConnection", self), POP, ["k1", "k2"], *arguments)


# Running


async def test_a_script_is_called_by_its_hash() -> None:
    """Its keys and arguments follow the hash."""
    redis = Redis(b"reply")
    assert await redis.run(1, b"two", 0.3) == b"reply"
    assert redis.commands == [("EVALSHA", POP.sha, 2, "k1", "k2", 1, b"two", 0.3)]


async def test_an_unknown_script_is_sent_in_full() -> None:
    """This happens once."""
    redis = Redis(NoScriptError("NOSCRIPT"), b"first", b"second")
    assert await redis.run("argument") == b"first"
    assert await redis.run("argument") == b"second"
    rest = (2, "k1", "k2", "argument")
    assert redis.commands == [
        ("EVALSHA", POP.sha, *rest),
        ("EVAL", POP.text, *rest),
        ("EVALSHA", POP.sha, *rest),
    ]


@pytest.mark.parametrize(
    "answers",
    [
        [ResponseError("WRONGTYPE")],
        [RedisUnavailable("gone")],
        [NoScriptError("NOSCRIPT"), ResponseError("WRONGTYPE")],
        [NoScriptError("NOSCRIPT"), NoScriptError("still not")],
    ],
    ids=["error", "unavailable", "error-of-whole", "unknown-twice"],
)
async def test_other_errors_of_a_script_are_raised(answers: list[Exception]) -> None:
    """Only an unknown script is sent again."""
    redis = Redis(*answers)
    with pytest.raises(type(answers[-1]), match=re.escape(str(answers[-1]))):
        await redis.run()
    assert redis.answers == []


# Files


def test_all_files_are_used() -> None:
    """Each file belongs to a script, and scripts consist of files only."""
    assert SCRIPTS.keys() == set(scripts.__all__) - {"Script", "run"}
    assert all(
        any(text in script.text for script in SCRIPTS.values())
        for text in TEXTS.values()
    )
    own = {f"{name.lower()}.lua" for name in SCRIPTS}
    assert TEXTS.keys() - own == SHARED


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_ends_with_the_file_of_its_name(name: str) -> None:
    """Its hash is that of its text."""
    script = SCRIPTS[name]
    assert script.text.endswith(TEXTS[f"{name.lower()}.lua"])
    sha = hashlib.sha1(script.text.encode(), usedforsecurity=False)
    assert script.sha == sha.hexdigest()


@pytest.mark.parametrize(
    ("name", "shared"),
    [
        ("GROUP_ADD", ["clock", "processes"]),
        ("GROUP_SEND", ["clock", "enqueue", "processes"]),
        ("HISTORY_MEMBERS", ["clock", "processes", "numbering"]),
        ("HISTORY_PUBLISH", ["numbering"]),
        ("HISTORY_READ", ["numbering"]),
        ("HISTORY_SEND", ["clock", "enqueue", "processes", "numbering"]),
        ("MEMBERS", ["clock", "processes"]),
        ("SEND", ["clock", "enqueue"]),
    ],
)
def test_scripts_start_with_their_shared_text(name: str, shared: list[str]) -> None:
    """Shared functions come first."""
    start = "\n".join(TEXTS[f"{file}.lua"] for file in shared)
    assert SCRIPTS[name].text.startswith(start)


@pytest.mark.parametrize("name", sorted(TEXTS.keys() - SHARED))
def test_a_file_opens_with_a_comment_on_its_arguments(name: str) -> None:
    """The comment names all keys and arguments that the file uses."""
    text = TEXTS[name]
    comment = re.match(r"(?:--.*\n)+", text)
    assert comment is not None
    code = text[comment.end() :]
    for array in ("KEYS", "ARGV"):
        listed = re.search(rf"^-- {array}: ((?:.*\n--  )*.*)", comment[0], re.MULTILINE)
        assert listed is not None, array
        numbers = {int(number) for number in re.findall(r"\b(\d+)\b", listed[1])}
        used = {int(number) for number in re.findall(rf"{array}\[(\d+)\]", code)}
        assert used <= numbers, array
