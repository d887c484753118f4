"""The hosts of layers, with fake servers and fake watches."""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar, cast

import pytest

from fast_channels.layers import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.redis import shards
from fast_channels.layers.redis.hosts import Host
from fast_channels.layers.redis.sentinel import Master
from fast_channels.layers.redis.shards import Shard
from fast_channels.layers.redis.wire import Connection


class Server(Protocol):
    """A fake server."""

    def connect(self) -> Connection: ...


S = TypeVar("S", bound=Server)


def as_shard(commands: object, name: str = "redis-1", prefix: str = "asgi") -> Shard:
    """Return a shard with a fake command connection and nothing else."""
    return Shard(name, prefix, cast("Any", None), cast("Any", commands), timeout=5)


class FakeWatch:
    """Stands in for the watch of a master."""

    def __init__(self, master: Master, switched: Callable[[], None]) -> None:
        assert master.host.kind == "sentinel"
        self.switched = switched
        self.started = False
        self.closed = False

    def start(self) -> None:
        self.started = True

    async def close(self) -> None:
        self.closed = True


class FakeHosts(Generic[S]):
    """Give every layer that is made from now on fake servers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, make: Callable[[], S]) -> None:
        self.servers: defaultdict[str, S] = defaultdict(make)
        self.watches: list[FakeWatch] = []
        monkeypatch.setattr(shards, "make_connection", self._make_connection)
        monkeypatch.setattr(shards, "MasterWatch", self._make_watch)

    def of(self, layer: RedisChannelLayer | RedisPubSubChannelLayer) -> list[S]:
        """Return the servers of a layer, in order."""
        return [self.servers[str(host)] for host in layer.hosts]

    def _make_connection(self, place: Host | Master) -> Connection:
        host = place.host if isinstance(place, Master) else place
        return self.servers[str(host)].connect()

    def _make_watch(self, master: Master, switched: Callable[[], None]) -> FakeWatch:
        self.watches.append(FakeWatch(master, switched))
        return self.watches[-1]
