"""The other process for the measurements of groups on Redis.

``python -m tests.benchmarks.sender LIBRARY KIND URL PREFIX`` writes a line when it
starts. Each line on stdin is a JSON list of an order, a group and a number: the order
``join`` adds that many channels to the group, ``send`` sends that many messages to it;
the answer is a line.
"""

import asyncio
import json
import sys

from .harness import FLAT
from .library import load


async def _main(name: str, kind: str, url: str, prefix: str) -> None:
    # The parent doesn't have to wait for the imports.
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
