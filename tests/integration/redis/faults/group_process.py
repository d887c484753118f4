"""A process with channels in one group, which prints the messages they receive.

Its arguments are the server's URL, the prefix, the group, and the number of channels.
It prints "ready" when all channels have joined, and runs until it is killed.
"""

import asyncio
import sys

from fast_channels.layers import RedisChannelLayer
from fast_channels.layers.redis.queue.endpoint import QueueEndpoint
from fast_channels.layers.redis.queue.group_writer import Timing

__all__ = ["TIMING"]

TIMING = Timing(beat=0.1, lease=0.6, beats_per_check=2)
"""The default timing, but faster."""


def say(word: object) -> None:
    sys.stdout.write(f"{word}\n")
    sys.stdout.flush()


async def main(url: str, prefix: str, group: str, channels: str) -> None:
    """Join the group, and receive until the end."""
    layer = RedisChannelLayer([url], prefix)

    async def receive() -> None:
        channel = await layer.new_channel()
        await layer.group_add(group, channel)
        while True:
            say((await layer.receive(channel))["number"])

    receiving = [asyncio.create_task(receive()) for _ in range(int(channels))]
    while layer.statistics()["channels"] < int(channels):  # noqa: ASYNC110 # statistics have no event
        await asyncio.sleep(0.01)
    say("ready")
    await asyncio.gather(*receiving)


if __name__ == "__main__":
    QueueEndpoint.timing = TIMING
    asyncio.run(main(*sys.argv[1:]))
