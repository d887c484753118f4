"""A publisher: ``python -m tests.benchmarks.publish PEER REDIS_URL``.

The process is ready when it has written a line. Each line on stdin is a JSON list of a
room and a text to publish; the answer is the CPU seconds of publishing so far.
"""

import asyncio
import json
import sys
import time

import uvloop

from .peers import PEERS, load


async def _main(peer: str, redis_url: str) -> None:
    async with load(PEERS[peer]).open_publisher(redis_url) as publish:
        print("{}", flush=True)
        used = 0.0
        while line := await asyncio.to_thread(sys.stdin.readline):
            room, text = json.loads(line)
            start = time.process_time()
            await publish(room, text)
            used += time.process_time() - start
            print(json.dumps({"cpu": used}), flush=True)


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main(*sys.argv[1:]))
