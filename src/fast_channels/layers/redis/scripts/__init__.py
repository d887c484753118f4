"""The Lua scripts, each in a file that says what its keys, arguments and result are.

Servers remember scripts by their SHA-1, and forget them when they restart. So a script
is called by its hash, and sent as a whole when the server does not know it.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from fast_channels.layers.redis.commands import CommandConnection

__all__ = [
    "GROUP_ADD",
    "GROUP_DISCARD",
    "GROUP_SEND",
    "MEMBERS",
    "POP",
    "RECOVER",
    "REQUEUE",
    "SEND",
    "TAKE",
    "Script",
    "run",
]


class Script:
    """A script, read from files of this package.

    Args:
        names: The names of the files, without ``.lua``; their text is joined.
    """

    def __init__(self, *names: str) -> None:
        folder = files(__name__)
        texts = [folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names]
        self.text: str = "\n".join(texts)
        """All of it, for ``EVAL``."""
        self.sha: str = hashlib.sha1(
            self.text.encode(), usedforsecurity=False
        ).hexdigest()
        """Its name, for ``EVALSHA``."""


GROUP_ADD: Script = Script("clock", "processes", "group_add")
GROUP_DISCARD: Script = Script("group_discard")
GROUP_SEND: Script = Script("clock", "enqueue", "processes", "group_send")
MEMBERS: Script = Script("clock", "processes", "members")
POP: Script = Script("pop")
RECOVER: Script = Script("recover")
REQUEUE: Script = Script("requeue")
SEND: Script = Script("clock", "enqueue", "send")
TAKE: Script = Script("take")


async def run(
    connection: CommandConnection,
    script: Script,
    keys: Sequence[str],
    *arguments: str | bytes | float,
    deadline: float | None = None,
) -> Any:
    """Run a script and return its reply.

    Raises:
        ResponseError: The script failed.
        RedisUnavailable: Redis refuses the script, or does not reply in time.
    """
    # A server that does not know the script is asked twice within the same time.
    deadline = connection.deadline() if deadline is None else deadline
    rest = (len(keys), *keys, *arguments)
    try:
        return await connection.execute("EVALSHA", script.sha, *rest, deadline=deadline)
    except NoScriptError:
        return await connection.execute("EVAL", script.text, *rest, deadline=deadline)
