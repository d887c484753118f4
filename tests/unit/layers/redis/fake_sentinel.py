"""Fake Sentinels and the servers that they name, which fail when a test says so."""

from typing import Any

import pytest

from fast_channels.layers.redis import master_watch, sentinel
from fast_channels.layers.redis.hosts import Host, parse_hosts
from fast_channels.layers.redis.sentinel import Master
from fast_channels.layers.redis.wire import Address

from .fake_server import FakeConnection, FakeServer

OLD: Address = ("10.0.0.1", 7000)
NEW: Address = ("10.0.0.2", 7000)


class FakeSentinel(FakeServer[FakeConnection]):
    """A Sentinel, or a server."""

    def __init__(self) -> None:
        super().__init__(FakeConnection)
        # The master; None for one that the Sentinel does not know.
        self.master: Address | None = OLD
        self.role = b"master"

    def answer(self, connection: FakeConnection, words: list[bytes]) -> list[Any]:
        match words:
            case [b"SUBSCRIBE", channel]:
                return [[b"subscribe", channel, 1]]
            case [b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME", b"main"]:
                if self.master is None:
                    return [None]
                host, port = self.master
                return [[host.encode(), str(port).encode()]]
            case [b"ROLE"]:
                return [[self.role, b"10.0.0.3", 7000]]
            case _:
                assert words == [b"PING"]
                return [[b"pong", b""]]

    def publish(self, name: str, new: Address) -> None:
        """Announce that a server has become the master."""
        host, port = new
        text = f"{name} {OLD[0]} {OLD[1]} {host} {port}"
        for connection in self.open:
            connection.reply([b"message", b"+switch-master", text.encode()])


class Network:
    """All servers, by their names."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
        self.servers = {name: FakeSentinel() for name in names}
        for module in (master_watch, sentinel):
            monkeypatch.setattr(module, "plain_connection", self._connect)

    def __getitem__(self, name: str) -> FakeSentinel:
        return self.servers[name]

    def _connect(self, host: Host) -> FakeConnection:
        return self[host.options["host"]].connect()

    @property
    def open(self) -> list[str]:
        """The servers that have connections."""
        return [name for name, each in self.servers.items() for _ in each.open]

    @property
    def asked(self) -> list[str]:
        """The Sentinels that were asked for the master, once per question."""
        return [
            name for name, each in self.servers.items() for _ in each.asked("SENTINEL")
        ]

    def switch(self, *names: str) -> None:
        """Give Sentinels another master."""
        for name in names:
            self[name].master = NEW


def master_of(*sentinels: str, patience: float = 1.0, **options: Any) -> Master:
    """Return the master according to some Sentinels."""
    places = [(name, 26379) for name in sentinels]
    (host,) = parse_hosts([{"sentinels": places, "master_name": "main", **options}])
    return Master(host, patience=patience)
