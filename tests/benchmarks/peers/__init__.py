"""The same chat, written with each library as in its documentation.

``make_application(redis_url)`` returns the chat: ``/ws/ROOM`` joins a room before it
accepts; ``leave`` leaves the room, and the answer is ``left``; any other text is sent
to everyone in the room. With ``open_publisher(redis_url)``, another process publishes
to a room.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from importlib import import_module
from typing import Any, NamedTuple, Protocol, TypeAlias, cast

__all__ = ["LEAVE", "LEFT", "PEERS", "Module", "Peer", "Publish", "load"]

LEAVE = "leave"
LEFT = "left"

Publish: TypeAlias = Callable[[str, str], Awaitable[None]]


class Module(Protocol):
    """The module of a peer."""

    def make_application(self, redis_url: str) -> Any: ...
    def open_publisher(
        self, redis_url: str
    ) -> AbstractAsyncContextManager[Publish]: ...


class Peer(NamedTuple):
    """A library with a chat, and one of its ways through Redis."""

    title: str
    module: str
    kind: str = ""
    """The kind of its layer."""
    environment: str = ""
    """Its virtual environment; empty for the current interpreter."""
    ws: str = "websockets-sansio"
    """The WebSocket protocol of uvicorn."""
    on_cluster: bool = False
    """Whether it uses a Redis Cluster, and takes part only in W8."""

    @property
    def in_memory(self) -> bool:
        """Whether messages reach only one process."""
        return self.kind == "memory"


_FRAMES = "fast_channels.uvicorn:WebSocketProtocol"

PEERS = {
    "ours": Peer("fast_channels, pub/sub", "ours", "pubsub"),
    "ours-queue": Peer("fast_channels, queue", "ours", "queue"),
    "ours-cluster": Peer(
        "fast_channels, pub/sub on a cluster", "ours", "pubsub", on_cluster=True
    ),
    "ours-queue-cluster": Peer(
        "fast_channels, queue on a cluster", "ours", "queue", on_cluster=True
    ),
    "ours-memory": Peer("fast_channels, in memory", "ours", "memory"),
    "broadcast": Peer("@broadcast, pub/sub", "broadcast", "pubsub"),
    "frames": Peer(
        "@broadcast, pub/sub, own protocol", "broadcast", "pubsub", "", _FRAMES
    ),
    "frames-queue": Peer(
        "@broadcast, queue, own protocol", "broadcast", "queue", "", _FRAMES
    ),
    "frames-memory": Peer(
        "@broadcast, in memory, own protocol", "broadcast", "memory", "", _FRAMES
    ),
    "picows": Peer("C server, no ASGI", "picows", environment="picows"),
    "before": Peer("before, pub/sub", "ours", "pubsub", "before"),
    "before-queue": Peer("before, queue", "ours", "queue", "before"),
    "before-memory": Peer("before, in memory", "ours", "memory", "before"),
    "bare": Peer("by hand: Starlette, redis-py", "bare", environment="bare"),
    "litestar": Peer("Litestar's channels", "litestar", environment="litestar"),
    "broadcaster": Peer("Broadcaster", "broadcaster", environment="broadcaster"),
    "socketio": Peer("python-socketio", "socketio", environment="socketio"),
    "channels": Peer("Channels, pub/sub", "channels", "pubsub", "channels"),
    "channels-queue": Peer("Channels, core", "channels", "queue", "channels"),
    "channels-memory": Peer("Channels, in memory", "channels", "memory", "channels"),
}


def load(peer: Peer) -> Module:
    """Import the chat of a peer, whose library must be installed."""
    module: Any = import_module(f"{__name__}.{peer.module}_chat")
    if peer.kind:
        module.KIND = peer.kind
    return cast("Module", module)
