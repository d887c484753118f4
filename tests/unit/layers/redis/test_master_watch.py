"""Who notices that the master has changed, without a network."""

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from fast_channels.layers.redis import master_watch
from fast_channels.layers.redis.hosts import Host, parse_hosts
from fast_channels.layers.redis.master_watch import MasterWatch
from fast_channels.layers.redis.sentinel import Address, Master
from tests.waiting import until

OLD: Address = ("10.0.0.1", 7000)
NEW = ("10.0.0.2", 7000)
LOST = "cannot be listened to: refused; trying again until it can"
NAMES = ("a", "b", "c")


def refused() -> RedisConnectionError:
    return RedisConnectionError("refused")


class Sentinel:
    """A Sentinel that fails and stalls where a test asks it to."""

    def __init__(self) -> None:
        self.master = OLD
        # What is raised to those who connect, subscribe, or ask for the master.
        self.errors: dict[str, BaseException] = {}
        # To which of them, or to PING, it says nothing.
        self.silent: set[str] = set()
        self.log: list[tuple[str, ...]] = []
        self.attempts: list[float] = []
        self.inbox: asyncio.Queue[Any] = asyncio.Queue()
        """What the last connection reads."""

    async def act(self, what: str) -> None:
        await asyncio.sleep(0)
        self.log.append((what,))
        if what in self.silent:
            await asyncio.Event().wait()
        if what in self.errors:
            raise self.errors[what]

    def publish(self, name: str, new: Address) -> None:
        host, port = new
        text = f"{name} {OLD[0]} {OLD[1]} {host} {port}"
        self.inbox.put_nowait([b"message", b"+switch-master", text.encode()])


class Connection:
    """Stands in for a connection of redis-py to a Sentinel."""

    def __init__(self, network: "Network", name: str) -> None:
        self._network = network
        self._name = name
        self._sentinel = network.sentinels[name]
        self._inbox: asyncio.Queue[Any] = asyncio.Queue()

    async def connect(self) -> None:
        self._network.open.append(self._name)
        self._sentinel.attempts.append(asyncio.get_running_loop().time())
        await self._sentinel.act("connect")
        self._sentinel.inbox = self._inbox

    async def send_command(self, *command: str, check_health: bool) -> None:
        assert not check_health
        match command:
            case "SUBSCRIBE", channel:
                await self._sentinel.act("subscribe")
                reply = [b"subscribe", channel.encode(), 1]
            case _:
                assert command == ("PING",)
                await self._sentinel.act("ping")
                reply = [b"pong", b""]
        self._inbox.put_nowait(reply)

    async def read_response(self, disconnect_on_error: bool) -> Any:
        assert not disconnect_on_error
        reply = await self._inbox.get()
        if isinstance(reply, Exception):
            raise reply
        return reply

    async def disconnect(self, nowait: bool) -> None:
        assert nowait
        self._network.open.remove(self._name)


class Network:
    """Three Sentinels, and what a watch makes of them."""

    def __init__(self) -> None:
        self.sentinels = {name: Sentinel() for name in NAMES}
        self.open: list[str] = []
        """To which Sentinels there are connections."""
        self.switches = 0
        """How many changes of the master were told of."""

    def switched(self) -> None:
        self.switches += 1

    def connect(self, host: Host) -> Connection:
        return Connection(self, host.options["host"])

    async def ask(self, host: Host) -> Address:
        sentinel = self.sentinels[host.options["host"]]
        await sentinel.act("ask")
        return sentinel.master

    def ready(self, name: str) -> Callable[[], bool]:
        """Return whether a watch listens to a Sentinel, as a condition."""
        return lambda: self.open == [name] and ("ask",) in self.sentinels[name].log

    def switch(self, *names: str) -> None:
        for name in names:
            self.sentinels[name].master = NEW


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(master_watch, "plain_connection", network.connect)

    async def ask(_: Master, sentinel: Host) -> Address:
        return await network.ask(sentinel)

    monkeypatch.setattr(Master, "ask", ask)
    return network


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(master_watch, "_PING_EVERY", 0.02)
    monkeypatch.setattr(master_watch, "_PATIENCE", 0.02)


@pytest.fixture
def master() -> Master:
    places = [(name, 26379) for name in NAMES]
    (host,) = parse_hosts([{"sentinels": places, "master_name": "main"}])
    return Master(host)


@pytest.fixture
async def watch(network: Network, master: Master) -> AsyncIterator[MasterWatch]:
    watch = MasterWatch(master, network.switched)
    yield watch
    await watch.close()
    assert network.open == []


# Rule 1: one Sentinel is listened to


async def test_switch(network: Network, watch: MasterWatch) -> None:
    """Each change of the master is told of, and no change of another master."""
    watch.start()
    await until(network.ready("a"))
    network.switch(*NAMES)
    sentinel = network.sentinels["a"]
    sentinel.publish("other", NEW)
    sentinel.publish("main", NEW)
    await until(sentinel.inbox.empty)
    await until(lambda: network.switches)
    sentinel.master = OLD
    sentinel.publish("main", OLD)
    await until(lambda: network.switches > 1)
    assert network.switches == 2
    assert network.open == ["a"]


async def test_start_and_close(network: Network, watch: MasterWatch) -> None:
    """It may be started twice, closed twice, and used again."""
    await watch.close()
    for _ in range(2):
        watch.start()
        watch.start()
        await until(network.ready("a"))
        await asyncio.gather(watch.close(), watch.close())
        assert network.open == []
    assert len(network.sentinels["a"].attempts) == 2


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(refused(), id="redis-py"),
        pytest.param(OSError("cut"), id="OSError"),
        # What uvloop raises when it knows of the end and the stream does not yet.
        pytest.param(RuntimeError("the handler is closed"), id="RuntimeError"),
        pytest.param([b"message", b"+switch-master", b"main"], id="nonsense"),
    ],
)
async def test_broken(network: Network, watch: MasterWatch, trouble: object) -> None:
    """When a Sentinel goes away, the next is listened to, and the first after all."""
    watch.start()
    for name in (*NAMES, "a"):
        await until(network.ready(name))
        network.sentinels[name].log.clear()
        network.sentinels[name].inbox.put_nowait(trouble)
    await until(network.ready("b"))
    assert network.switches == 0


@pytest.mark.parametrize("where", ["connect", "subscribe", "ask"])
@pytest.mark.parametrize(
    "error", [refused(), OSError("refused"), ResponseError("NOPERM no permissions")]
)
async def test_skipped(
    network: Network, watch: MasterWatch, where: str, error: Exception
) -> None:
    """A Sentinel that is of no use is skipped."""
    network.sentinels["a"].errors[where] = error
    watch.start()
    await until(network.ready("b"))


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("where", ["connect", "subscribe", "ping"])
async def test_frozen(network: Network, watch: MasterWatch, where: str) -> None:
    """A Sentinel that says nothing any more is skipped, whenever it froze."""
    network.sentinels["a"].silent.add(where)
    watch.start()
    await until(network.ready("b"))
    network.switch(*NAMES)
    network.sentinels["b"].publish("main", NEW)
    await until(lambda: network.switches)


async def test_quiet_sentinel(
    network: Network, watch: MasterWatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Sentinel that has nothing to tell, but answers, is listened to for ever."""
    # Not "impatient": a machine that is busy takes its time for an answer.
    monkeypatch.setattr(master_watch, "_PING_EVERY", 0.02)
    watch.start()
    sentinel = network.sentinels["a"]
    await until(lambda: sentinel.log.count(("ping",)) == 3)
    network.switch(*NAMES)
    sentinel.publish("main", NEW)
    await until(lambda: network.switches)
    assert len(sentinel.attempts) == 1


async def test_backoff(
    network: Network, watch: MasterWatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Sentinels that cannot be reached are tried ever less often, and logged once."""
    caplog.set_level(logging.INFO, master_watch.__name__)
    for sentinel in network.sentinels.values():
        sentinel.errors["connect"] = refused()
    watch.start()
    # After one second at the most the next one is tried.
    await until(lambda: len(network.sentinels["a"].attempts) == 3)
    times = sorted(
        itertools.chain(*(each.attempts for each in network.sentinels.values()))
    )
    pauses = [end - start for start, end in itertools.pairwise(times)]
    # They are shortened by up to a half; clocks of event loops are a bit wrong.
    shortest = [0.005 * 2**number - 0.002 for number in range(len(pauses))]
    assert all(map(float.__gt__, pauses, shortest))
    for sentinel in network.sentinels.values():
        del sentinel.errors["connect"]
    # asyncio may have to say something too, on a machine that is busy.
    own = [master_watch.__name__]
    await until(lambda: [each[0] for each in caplog.record_tuples].count(*own) == 2)
    place = "sentinel://a:26379,b:26379,c:26379/main?db=0"
    assert [each for each in caplog.record_tuples if each[0] in own] == [
        (
            master_watch.__name__,
            logging.WARNING,
            f"The Sentinel service of {place} {LOST}",
        ),
        (
            master_watch.__name__,
            logging.WARNING,
            f"The Sentinel service of {place} can be listened to again",
        ),
    ]


async def test_backoff_begins_anew(network: Network, watch: MasterWatch) -> None:
    """A Sentinel that could be listened to makes the next attempts quick again."""
    watch.start()
    for name in NAMES * 4:
        await until(network.ready(name))
        network.sentinels[name].log.clear()
        network.sentinels[name].inbox.put_nowait(refused())
    await until(network.ready("a"))
    times = [
        attempt for each in network.sentinels.values() for attempt in each.attempts
    ]
    # Delays that doubled would be twenty seconds.
    assert max(times) - min(times) < 10


# Rule 2: what nobody listened to


async def test_missed(network: Network, watch: MasterWatch, master: Master) -> None:
    """A change that was published while nobody listened is told of once."""
    watch.start()
    await until(network.ready("a"))
    master.reached.add(OLD)
    assert network.switches == 0
    network.switch(*NAMES)
    network.sentinels["a"].inbox.put_nowait(refused())
    await until(lambda: network.switches)
    master.reached.add(NEW)
    network.sentinels["b"].inbox.put_nowait(refused())
    await until(network.ready("c"))
    assert network.switches == 1


@pytest.mark.parametrize(
    ("reached", "switches"),
    [([], 0), ([NEW], 0), ([OLD], 1), ([OLD, NEW], 1)],
    ids=["nobody", "new", "old", "both"],
)
async def test_missed_before_it_began(
    network: Network,
    watch: MasterWatch,
    master: Master,
    reached: list[Address],
    switches: int,
) -> None:
    """A change between connecting and the first listening is told of, if it matters."""
    master.reached.update(reached)
    network.switch(*NAMES)
    watch.start()
    await until(network.ready("a"))
    network.sentinels["a"].inbox.put_nowait(refused())
    await until(network.ready("b"))
    assert network.switches == switches


# Rule 3: Sentinels learn of a change one after the other


async def test_late_sentinel(
    network: Network, watch: MasterWatch, master: Master
) -> None:
    """Who connects when a change is told of asks the Sentinel that told of it."""
    network.sentinels["a"].errors["connect"] = refused()
    watch.start()
    await until(network.ready("b"))
    network.switch("b")
    network.sentinels["b"].publish("main", NEW)
    await until(lambda: network.switches)
    assert await master.find() == NEW


# close()


@pytest.mark.parametrize("where", ["connect", "subscribe", "ask", "ping"])
async def test_close(
    network: Network,
    watch: MasterWatch,
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    """close() ends it, wherever it waits."""
    monkeypatch.setattr(master_watch, "_PING_EVERY", 0.01)
    sentinel = network.sentinels["a"]
    sentinel.silent.add(where)
    watch.start()
    await until(lambda: (where,) in sentinel.log)
    await watch.close()
    assert network.open == []
    assert network.switches == 0
