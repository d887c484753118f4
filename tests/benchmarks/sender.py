"""The other process, whose groups and group messages the measures on Redis need.

``python -m tests.benchmarks.sender LIBRARY KIND URL PREFIX`` writes a line when it
starts. For each line on stdin, a JSON list of an order, a group and a number, it makes
so many channels ``join`` the group, or so many times does ``send`` to it, and writes
another line when that is done.
"""

import asyncio
import json
import sys

from .harness import FLAT
from .library import load


async def _main(name: str, kind: str, url: str, prefix: str) -> None:
    # Whoever has started it need not wait for the imports.
    print("{}", flush=True)
    layer = load(name, kind, url, prefix).layer

    async def join(group: str) -> None:
        await layer.group_add(group, await layer.new_channel())

    async def send(group: str) -> None:
        await layer.group_send(group, FLAT)

    orders = {"join": join, "send": send}
    while line := await asyncio.to_thread(sys.stdin.readline):
        order, group, count = json.loads(line)
        for _ in range(count):
            await orders[order](group)
        print("{}", flush=True)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
