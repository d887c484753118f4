"""A server of the chat: ``python -m tests.benchmarks.serve PEER REDIS_URL``.

It writes its port to stdout. For each line on stdin it writes its resource usage so
far; it ends when stdin does. All peers have the same server, event loop and options.
"""

import json
import os
import socket
import sys
import threading
import time
from typing import Any

from .peers import PEERS, load

_BACKLOG = 2048


def memory() -> int:
    """Return the memory of this process in bytes."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _answer() -> None:
    for _ in sys.stdin:
        used = {"cpu": time.process_time(), "memory": memory()}
        print(json.dumps(used), flush=True)
    os._exit(0)


def main(peer: str, redis_url: str) -> None:
    """Serve until stdin ends."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
    print(json.dumps({"port": listener.getsockname()[1]}), flush=True)
    threading.Thread(target=_answer, daemon=True).start()
    module: Any = load(PEERS[peer])
    if hasattr(module, "run"):
        module.run(redis_url, listener)
        return
    import uvicorn  # noqa: PLC0415 # not every peer has it

    config = uvicorn.Config(
        module.make_application(redis_url),
        loop="uvloop",
        http="httptools",
        ws=PEERS[peer].ws,
        # Pings and compression cost more than the differences compared here.
        ws_ping_interval=None,
        ws_per_message_deflate=False,
        access_log=False,
        log_level="error",
        backlog=_BACKLOG,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main(*sys.argv[1:])
