"""A process that receives from one plain channel, and prints what it gets.

Its arguments are the server's URL, the prefix, and the channel. It prints "ready", and
then each number on its own line before it receives again. It ends after an end message.
"""

import asyncio
import sys

from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.redis.queue.inbox import Inbox, InboxTiming

__all__ = ["LEASE", "shorten_leases"]

LEASE = 3.0
"""Seconds for which the process counts as alive."""


def shorten_leases() -> None:
    """Make this process recover quickly what another has left behind."""
    Inbox.timing = InboxTiming(check=LEASE / 3, lease=LEASE)


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main(url: str, prefix: str, channel: str) -> None:
    """Receive until the end."""
    async with RedisChannelLayer([url], prefix) as layer:
        say("ready")
        while (message := await layer.receive(channel))["type"] != "end":
            say(message["number"])


if __name__ == "__main__":
    shorten_leases()
    asyncio.run(main(*sys.argv[1:]))
