"""The Lua scripts, each in a file that says what its keys, arguments and result are.

Servers remember scripts by their SHA-1, and forget them when they restart. So a script
is called by its hash, and sent as a whole when the server does not know it.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from redis.exceptions import NoScriptError

from fast_channels.layers.redis.connections import CommandConnection

__all__ = [
    "GROUP_ADD",
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


GROUP_ADD: Script = Script("group_add")
GROUP_SEND: Script = Script("enqueue", "group_send")
MEMBERS: Script = Script("members")
POP: Script = Script("pop")
RECOVER: Script = Script("recover")
REQUEUE: Script = Script("requeue")
SEND: Script = Script("enqueue", "send")
TAKE: Script = Script("take")


async def run(
    connection: CommandConnection,
    script: Script,
    keys: Sequence[str],
    *arguments: str | bytes | float,
) -> Any:
    """Run a script and return its reply.

    Raises:
        ResponseError: The script failed.
        RedisUnavailable: There is no reply.
    """
    rest = (len(keys), *keys, *arguments)
    try:
        return await connection.execute("EVALSHA", script.sha, *rest)
    except NoScriptError:
        return await connection.execute("EVAL", script.text, *rest)
