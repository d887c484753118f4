"""A process with a channel that resumes, which prints the positions that it gets.

Its arguments are the kind of layer, the server's URL, the prefix, the group, and the
position after which to resume. It runs until it is killed.
"""

import asyncio
import sys

from fast_channels.layers import (
    GroupMessage,
    History,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
)

__all__ = ["HISTORY", "LAYERS"]

HISTORY = {"room.*": History(messages=5000)}
"""The histories of all layers."""
LAYERS = {"queue": RedisChannelLayer, "pub/sub": RedisPubSubChannelLayer}
"""The kinds of layers."""


async def main(kind: str, url: str, prefix: str, group: str, since: str) -> None:
    """Resume, and receive until the end."""
    layer = LAYERS[kind]([url], prefix, history=HISTORY)
    channel = await layer.new_channel()
    resumed = await layer.group_resume(group, channel, since=since)
    assert resumed.complete
    while True:
        message = await layer.receive(channel)
        assert isinstance(message, GroupMessage)
        sys.stdout.write(f"{message.position}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
