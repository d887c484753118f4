"""Finding the master with the help of Sentinels, without a network."""

import asyncio
from typing import Any, cast

import pytest
from redis.asyncio.connection import (
    AbstractConnection,
    Connection,
    SSLConnection,
    UnixDomainSocketConnection,
)
from redis.exceptions import TimeoutError as RedisTimeoutError

from fast_channels.layers.redis.hosts import parse_hosts
from fast_channels.layers.redis.sentinel import make_connection
from fast_channels.layers.redis.wire import (
    AuthenticationError,
    NoPermissionError,
    RedisConnectionError,
    ResponseError,
)
from tests.waiting import until

from .fake_sentinel import NEW, OLD, FakeSentinel, Network, master_of

PASSWORD = "secret"  # noqa: S105 # of these tests alone


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch, *"abcd")


# Asking the Sentinels


async def test_the_first_sentinel_that_knows_the_master_is_asked_and_no_other(
    network: Network,
) -> None:
    network.switch("b")
    assert await master_of("a", "b").find() == OLD
    assert network["a"].told == [["SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main"]]
    assert network.asked == ["a"]
    assert network.open == []


@pytest.mark.parametrize(
    "error",
    [
        OSError("no route"),
        RedisConnectionError("refused"),
        RedisTimeoutError("too slow"),
        AuthenticationError("wrong password"),
        None,
    ],
    ids=repr,
)
async def test_a_sentinel_that_cannot_be_connected_to_is_skipped(
    network: Network, error: Exception | None
) -> None:
    if error is None:
        network["a"].stalls.add("connect")
    else:
        network["a"].refusals.append(error)
    assert await master_of("a", "b", patience=0.01).find() == OLD
    assert network.asked == ["b"]
    assert network.open == []


@pytest.mark.parametrize(
    "error",
    [ResponseError("unknown command"), ConnectionResetError("reset"), None],
    ids=repr,
)
async def test_a_sentinel_that_does_not_reply_or_replies_an_error_is_skipped(
    network: Network, error: Exception | None
) -> None:
    if error is None:
        network["a"].silent.add("SENTINEL")
    else:
        network["a"].refuses["SENTINEL"] = error
    assert await master_of("a", "b", patience=0.01).find() == OLD
    assert network.asked == ["a", "b"]
    assert network.open == []


async def test_a_sentinel_that_does_not_know_the_master_is_skipped(
    network: Network,
) -> None:
    network["a"].master = None
    assert await master_of("a", "b").find() == OLD
    assert network.open == []


async def test_the_error_gives_the_problem_with_each_sentinel(
    network: Network,
) -> None:
    """It shows no password."""
    network["a"].refusals.append(OSError("no route"))
    network["b"].stalls.add("connect")
    network["c"].master = None
    network["d"].refuses["SENTINEL"] = ResponseError("too busy")
    master = master_of(
        *"abcd",
        patience=0.01,
        password=PASSWORD,
        sentinel_kwargs={"password": PASSWORD},
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


async def test_cancelling_asks_no_other_sentinel_and_leaves_no_connection(
    network: Network,
) -> None:
    network["a"].silent.add("SENTINEL")
    task = asyncio.create_task(master_of("a", "b").find())
    await until(lambda: network.asked)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert network.asked == ["a"]
    assert network.open == []


async def test_sentinels_are_asked_in_the_order_that_was_set_last(
    network: Network,
) -> None:
    network.switch("b")
    master = master_of("a", "b")
    master.sentinels.rotate(-1)
    assert await master.find() == NEW
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
def test_a_host_without_sentinels_gets_a_plain_connection(
    spelling: str, kind: type[AbstractConnection]
) -> None:
    (host,) = parse_hosts([spelling])
    assert type(make_connection(host)) is kind


@pytest.mark.parametrize("tls", [False, True])
def test_a_connection_to_a_master_has_the_options_of_the_master(tls: bool) -> None:
    connection = make_connection(
        master_of("a", db=2, password=PASSWORD, client_name="name", ssl=tls)
    )
    assert isinstance(connection, Connection)
    assert isinstance(connection, SSLConnection) is tls
    assert (connection.db, connection.password) == (2, PASSWORD)
    assert (connection.client_name, connection.protocol) == ("name", 2)
    assert not connection.is_connected


@pytest.fixture
def servers(network: Network, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Also make redis-py's connections to masters fake ones."""
    network.servers |= {host: FakeSentinel() for host, _ in (OLD, NEW)}
    fakes: dict[str, Any] = {}

    async def connect(self: Connection) -> None:
        fakes[self.host] = network[self.host].connect()
        await fakes[self.host].connect()

    async def send_packed_command(
        self: Connection, command: bytes, check_health: bool
    ) -> None:
        await fakes[self.host].send_packed_command(command, check_health)

    async def read_response(self: Connection, *, disconnect_on_error: bool) -> Any:
        return await fakes[self.host].read_response(
            disconnect_on_error=disconnect_on_error
        )

    async def disconnect(self: Connection, *, nowait: bool) -> None:
        await fakes[self.host].disconnect(nowait=nowait)

    for fake in (connect, send_packed_command, read_response, disconnect):
        monkeypatch.setattr(Connection, fake.__name__, fake)
    return network


@pytest.mark.parametrize("tls", [False, True])
async def test_a_connection_asks_for_the_master_each_time_it_connects(
    servers: Network, tls: bool
) -> None:
    master = master_of("a", ssl=tls)
    connection = make_connection(master)
    for address in (OLD, NEW):
        servers["a"].master = address
        host, _ = address
        await connection.connect()
        assert cast("Connection", connection).port == 7000
        assert servers[host].told == [["ROLE"]]
        assert servers.open == [host]
        await connection.disconnect(nowait=True)
    assert servers.asked == ["a", "a"]
    assert master.reached == {OLD, NEW}


async def test_a_server_that_is_a_replica_is_refused(servers: Network) -> None:
    servers[OLD[0]].role = b"slave"
    with pytest.raises(
        RedisConnectionError,
        match=r"^10\.0\.0\.1:7000, which Sentinel calls the master 'main', is a slave$",
    ):
        await make_connection(master_of("a")).connect()
    assert servers.open == []


async def test_a_server_whose_role_may_not_be_asked_for_is_trusted(
    servers: Network,
) -> None:
    servers[OLD[0]].refuses["ROLE"] = NoPermissionError("may not")
    await make_connection(master_of("a")).connect()
    assert servers.open == [OLD[0]]


async def test_a_server_that_does_not_report_its_role_is_refused(
    servers: Network,
) -> None:
    servers[OLD[0]].refuses["ROLE"] = ResponseError("too busy")
    with pytest.raises(ResponseError, match=r"^too busy$"):
        await make_connection(master_of("a")).connect()
    assert servers.open == []


@pytest.mark.parametrize("known", [True, False])
async def test_without_a_master_that_accepts_there_is_an_error_and_no_connection(
    servers: Network, known: bool
) -> None:
    """An address counts as reached as soon as it is tried: a failover affects it."""
    master = master_of("a")
    servers[OLD[0]].unreachable = True
    servers["a"].master = OLD if known else None
    with pytest.raises(RedisConnectionError):
        await make_connection(master).connect()
    assert servers.open == []
    assert master.reached == ({OLD} if known else set())
