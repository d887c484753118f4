"""Whom the Sentinels call the master, without a network."""

import asyncio
from typing import Any

import pytest
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import AuthenticationError, NoPermissionError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from fast_channels.layers.redis import sentinel
from fast_channels.layers.redis.hosts import Host, parse_hosts
from fast_channels.layers.redis.sentinel import Master, make_connection

PASSWORD = "secret"  # noqa: S105 # of these tests alone
HANG = object()
FOUND = [b"10.0.0.1", b"7000"]


def master_of(*sentinels: str, **options: Any) -> Master:
    (host,) = parse_hosts(
        [
            {
                "sentinels": [(name, 26379) for name in sentinels],
                "master_name": "main",
                **options,
            }
        ]
    )
    return Master(host)


async def play(act: object) -> Any:
    """Do as a server does: reply, fail, or stay silent."""
    if act is HANG:
        await asyncio.Event().wait()
    if isinstance(act, Exception):
        raise act
    return act


class Network:
    """Stands for all servers: does what it is told, and notes what happens."""

    def __init__(self) -> None:
        self.connecting: dict[str, object] = {}
        """What happens to those who connect to a server, if not nothing."""
        self.replies: dict[str, object] = {}
        """What a server replies."""
        self.log: list[tuple[str, ...]] = []
        self.open: list[str] = []

    @property
    def asked(self) -> list[str]:
        """The servers that got a command."""
        return [entry[0] for entry in self.log]


class FakeConnection:
    """A connection to one of the Sentinels."""

    def __init__(self, network: Network, name: str) -> None:
        self._network = network
        self._name = name

    async def connect(self) -> None:
        self._network.open.append(self._name)
        await play(self._network.connecting.get(self._name))

    async def send_command(self, *command: str, check_health: bool) -> None:
        assert not check_health
        self._network.log.append((self._name, *command))

    async def read_response(self, *, disconnect_on_error: bool) -> Any:
        assert not disconnect_on_error
        return await play(self._network.replies[self._name])

    async def disconnect(self, *, nowait: bool) -> None:
        assert nowait
        self._network.open.remove(self._name)


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()

    def fake(host: Host) -> FakeConnection:
        return FakeConnection(network, host.options["host"])

    monkeypatch.setattr(sentinel, "plain_connection", fake)
    return network


@pytest.fixture
def masters(network: Network, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Fake redis-py's connections too; places such as "10.0.0.1:7000" name them."""

    def place(self: Connection) -> str:
        return f"{self.host}:{self.port}"

    async def connect(self: Connection) -> None:
        await play(network.connecting.get(place(self)))
        network.open.append(place(self))

    async def send_command(self: Connection, *command: str, check_health: bool) -> None:
        assert not check_health
        network.log.append((place(self), *command))

    async def read_response(self: Connection, *, disconnect_on_error: bool) -> Any:
        assert not disconnect_on_error
        return await play(network.replies[place(self)])

    async def disconnect(self: Connection, *, nowait: bool) -> None:
        assert nowait
        network.open.remove(place(self))

    for fake in (connect, send_command, read_response, disconnect):
        monkeypatch.setattr(Connection, fake.__name__, fake)
    return network


# Asking the Sentinels


async def test_first_sentinel(network: Network) -> None:
    """The first Sentinel that knows the master is asked, and no other."""
    network.replies = {"a": FOUND, "b": [b"10.0.0.2", b"7000"]}
    assert await master_of("a", "b").find() == ("10.0.0.1", 7000)
    assert network.log == [("a", "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main")]
    assert network.open == []


TROUBLE: list[tuple[str, object]] = [
    ("unreachable", OSError("no route")),
    ("refused", RedisConnectionError("refused")),
    ("slow to accept", RedisTimeoutError("too slow")),
    ("login", AuthenticationError("wrong password")),
    ("hangs", HANG),
]
TROUBLED = pytest.mark.parametrize(
    "act", [act for _, act in TROUBLE], ids=[name for name, _ in TROUBLE]
)


def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sentinel, "_PATIENCE", 0.01)


@TROUBLED
async def test_skipped_connecting(
    network: Network, monkeypatch: pytest.MonkeyPatch, act: object
) -> None:
    """A Sentinel that cannot be connected to is skipped."""
    impatient(monkeypatch)
    network.connecting = {"a": act}
    network.replies = {"b": FOUND}
    assert await master_of("a", "b").find() == ("10.0.0.1", 7000)
    assert network.asked == ["b"]
    assert network.open == []


@pytest.mark.parametrize(
    "reply",
    [ResponseError("unknown command"), ConnectionResetError("reset"), HANG, None],
    ids=["error", "reset", "hangs", "unknown"],
)
async def test_skipped_replying(
    network: Network, monkeypatch: pytest.MonkeyPatch, reply: object
) -> None:
    """A Sentinel that replies nothing, an error, or knows no master is skipped."""
    impatient(monkeypatch)
    network.replies = {"a": reply, "b": FOUND}
    assert await master_of("a", "b").find() == ("10.0.0.1", 7000)
    assert network.asked == ["a", "b"]
    assert network.open == []


async def test_no_master(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says what is wrong with each Sentinel, and shows no password."""
    impatient(monkeypatch)
    network.connecting = {"a": OSError("no route"), "b": HANG}
    network.replies = {"c": None, "d": ResponseError("too busy")}
    master = master_of(
        *"abcd", password=PASSWORD, sentinel_kwargs={"password": PASSWORD}
    )
    with pytest.raises(RedisConnectionError) as info:
        await master.find()
    assert str(info.value) == (
        "no Sentinel gives the address of the master 'main': "
        "redis://:***@a:26379/0: no route; "
        "redis://:***@b:26379/0 does not answer; "
        "redis://:***@c:26379/0: it knows no such master; "
        "redis://:***@d:26379/0: too busy"
    )


async def test_cancelled(network: Network) -> None:
    """Who is cancelled asks no other Sentinel, and leaves no connection open."""
    network.replies = {"a": HANG, "b": FOUND}
    task = asyncio.create_task(master_of("a", "b").find())
    while not network.asked:  # noqa: ASYNC110 # the fake tells nobody
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert network.asked == ["a"]
    assert network.open == []


async def test_order(network: Network) -> None:
    """Sentinels are asked in the order that was last said."""
    network.replies = {"a": FOUND, "b": [b"10.0.0.2", b"7000"]}
    master = master_of("a", "b")
    master.sentinels.rotate(-1)
    assert await master.find() == ("10.0.0.2", 7000)
    assert network.asked == ["b"]


# Connecting to the master


@pytest.mark.parametrize(
    ("spelling", "kind"),
    [
        ("redis://a", Connection),
        ("rediss://a", SSLConnection),
        ("unix:///a", UnixDomainSocketConnection),
    ],
)
def test_plain_kinds(spelling: str, kind: type[AbstractConnection]) -> None:
    """A host without Sentinels gets the connection that redis-py has for it."""
    (host,) = parse_hosts([spelling])
    assert type(make_connection(host)) is kind


@pytest.mark.parametrize("tls", [False, True])
def test_sentinel_kinds(tls: bool) -> None:
    """A connection to a master has the options of the master, and TLS if it has."""
    connection = make_connection(
        master_of("a", db=2, password=PASSWORD, client_name="name", ssl=tls)
    )
    assert isinstance(connection, Connection)
    assert isinstance(connection, SSLConnection) is tls
    assert (connection.db, connection.password) == (2, PASSWORD)
    assert (connection.client_name, connection.protocol) == ("name", 2)
    assert not connection.is_connected


@pytest.mark.parametrize("tls", [False, True])
async def test_asks_anew(masters: Network, tls: bool) -> None:
    """Each time that it connects, a connection asks where the master is."""
    master = master_of("a", ssl=tls)
    connection = make_connection(master)
    for number in (1, 2):
        place = f"10.0.0.{number}:7000"
        masters.replies = {
            "a": [b"10.0.0.%d" % number, b"7000"],
            place: [b"master", 0, []],
        }
        await connection.connect()
        assert masters.log[-2:] == [
            ("a", "SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"),
            (place, "ROLE"),
        ]
        assert masters.open == [place]
        await connection.disconnect(nowait=True)
    assert master.reached == {("10.0.0.1", 7000), ("10.0.0.2", 7000)}


async def test_replica(masters: Network) -> None:
    """A server that says it is a replica is refused, and the connection closed."""
    masters.replies = {"a": FOUND, "10.0.0.1:7000": [b"slave", b"10.0.0.2", 7000]}
    with pytest.raises(
        RedisConnectionError,
        match=r"^10\.0\.0\.1:7000, which Sentinel calls the master 'main', is a slave$",
    ):
        await make_connection(master_of("a")).connect()
    assert masters.open == []


async def test_role_not_permitted(masters: Network) -> None:
    """A user who may not ask for the role trusts the Sentinels."""
    masters.replies = {"a": FOUND, "10.0.0.1:7000": NoPermissionError("may not")}
    await make_connection(master_of("a")).connect()
    assert masters.open == ["10.0.0.1:7000"]


async def test_role_unknown(masters: Network) -> None:
    """A server that does not tell its role is left, and the connection closed."""
    masters.replies = {"a": FOUND, "10.0.0.1:7000": ResponseError("too busy")}
    with pytest.raises(ResponseError, match=r"^too busy$"):
        await make_connection(master_of("a")).connect()
    assert masters.open == []


@pytest.mark.parametrize(
    ("accepts", "known"),
    [(RedisConnectionError("refused"), FOUND), (None, None)],
    ids=["refused", "unknown"],
)
async def test_no_connection(masters: Network, accepts: object, known: object) -> None:
    """Without a master, or one that accepts, there is an error and no connection."""
    masters.connecting = {"10.0.0.1:7000": accepts}
    masters.replies = {"a": known}
    with pytest.raises(RedisConnectionError):
        await make_connection(master_of("a")).connect()
    assert masters.open == []
