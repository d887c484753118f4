"""A worker that does ten jobs of one channel at once, and prints its progress.

Its arguments are the server's URL, the prefix, the channel, and the number of
deliveries after which a message is a dead letter (0 for no limit). It prints "ready",
and "begun" and "ended" with the number of each job. A job of type "job.kill" kills the
process. SIGTERM stops it.
"""

import asyncio
import os
import signal
import sys
from typing import Any

from fast_channels.consumer import AsyncConsumer
from fast_channels.layers import RedisChannelLayer
from fast_channels.worker import Worker

from .worker_process import say, shorten_leases

CONCURRENCY = 10


class Jobs(AsyncConsumer):
    async def job_do(self, message: dict[str, Any]) -> None:
        say(f"begun {message['number']}")
        await asyncio.sleep(message["seconds"])
        say(f"ended {message['number']}")

    async def job_kill(self, message: dict[str, Any]) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


async def main(url: str, prefix: str, channel: str, deliveries: str) -> None:
    """Do jobs until the process is stopped."""
    most = int(deliveries) or None
    async with RedisChannelLayer([url], prefix, 600, max_deliveries=most) as layer:
        worker = Worker(Jobs, [channel], layer, concurrency=CONCURRENCY)
        running = asyncio.ensure_future(worker.run())
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, running.cancel)
        say("ready")
        await asyncio.wait([running])


if __name__ == "__main__":
    shorten_leases()
    asyncio.run(main(*sys.argv[1:]))
