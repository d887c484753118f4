"""The Lua scripts; each file documents its keys, arguments and result.

Servers cache scripts by their SHA-1, and lose the cache when they restart. So a script
is called by its hash, and sent in full if the server does not know it.
"""

import hashlib
from collections.abc import Sequence
from importlib.resources import files

from fast_channels.layers.redis.commands import Commands
from fast_channels.layers.redis.wire import NoScriptError, Reply

__all__ = [
    "GROUP_ADD",
    "GROUP_DISCARD",
    "GROUP_SEND",
    "HISTORY_MEMBERS",
    "HISTORY_PUBLISH",
    "HISTORY_READ",
    "HISTORY_SEND",
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
        names: Names of the files, without ``.lua``, whose texts are joined.
    """

    def __init__(self, *names: str) -> None:
        folder = files(__name__)
        texts = [folder.joinpath(f"{name}.lua").read_text("utf-8") for name in names]
        self.text: str = "\n".join(texts)
        """The full text, for ``EVAL``."""
        self.sha: str = hashlib.sha1(
            self.text.encode(), usedforsecurity=False
        ).hexdigest()
        """The SHA-1 of the text, for ``EVALSHA``."""


GROUP_ADD: Script = Script("clock", "processes", "group_add")
GROUP_DISCARD: Script = Script("group_discard")
GROUP_SEND: Script = Script("clock", "enqueue", "processes", "group_send")
HISTORY_MEMBERS: Script = Script("clock", "processes", "numbering", "history_members")
HISTORY_PUBLISH: Script = Script("numbering", "history_publish")
HISTORY_READ: Script = Script("numbering", "history_read")
HISTORY_SEND: Script = Script(
    "clock", "enqueue", "processes", "numbering", "history_send"
)
MEMBERS: Script = Script("clock", "processes", "members")
POP: Script = Script("pop")
RECOVER: Script = Script("recover")
REQUEUE: Script = Script("requeue")
SEND: Script = Script("clock", "enqueue", "send")
TAKE: Script = Script("take")


async def run(
    commands: Commands,
    script: Script,
    keys: Sequence[str],
    *arguments: str | bytes | float,
    deadline: float | None = None,
) -> Reply:
    """Run a script and return its reply.

    Raises:
        ResponseError: The script failed.
        RedisUnavailable: Redis refuses the script, or does not reply in time.
    """
    # If the server does not know the script, both calls share one deadline.
    deadline = commands.deadline() if deadline is None else deadline
    rest = (len(keys), *keys, *arguments)
    try:
        return await commands.execute("EVALSHA", script.sha, *rest, deadline=deadline)
    except NoScriptError:
        return await commands.execute("EVAL", script.text, *rest, deadline=deadline)
