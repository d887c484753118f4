"""The process that sends the group messages whose receiving is measured.

``python -m tests.benchmarks.sender LIBRARY URL PREFIX`` writes a line when it is ready,
then reads lines of a group and a number from stdin, and sends so many messages to the
group. It ends with its input.
"""

import asyncio
import sys

from .harness import FLAT
from .library import load


async def _main(name: str, url: str, prefix: str) -> None:
    library = load(name, url, prefix)
    print("ready", flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        group, count = line.split()
        for _ in range(int(count)):
            await library.layer.group_send(group, FLAT)
    await library.close(library.layer)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
