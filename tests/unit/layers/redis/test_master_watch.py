"""Noticing a change of the master, without a network."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

import pytest

from fast_channels.layers.redis import master_watch
from fast_channels.layers.redis.link import Timing
from fast_channels.layers.redis.master_watch import MasterWatch
from fast_channels.layers.redis.sentinel import Master
from fast_channels.layers.redis.wire import (
    Address,
    RedisConnectionError,
    ResponseError,
)
from tests.waiting import until

from .fake_sentinel import NEW, OLD, Network, master_of
from .fake_server import NO_PAUSE

NAMES = ("a", "b", "c")
AT_ONCE = replace(MasterWatch.timing, jitter=NO_PAUSE.jitter)
IMPATIENT = replace(AT_ONCE, idle=0.02, patience=0.02)


def refused() -> RedisConnectionError:
    return RedisConnectionError("refused")


class Switches:
    """The number of reported changes of the master."""

    count = 0

    def __call__(self) -> None:
        self.count += 1


@pytest.fixture
async def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    return Network(monkeypatch, *NAMES)


@pytest.fixture
def switches() -> Switches:
    return Switches()


@pytest.fixture
def master() -> Master:
    return master_of(*NAMES)


@pytest.fixture
def timing() -> Timing:
    return AT_ONCE


@pytest.fixture
async def watch(
    network: Network, master: Master, switches: Switches, timing: Timing
) -> AsyncIterator[MasterWatch]:
    watch = MasterWatch(master, switches, timing=timing)
    yield watch
    await watch.close()
    assert network.open == []


def ready(network: Network, name: str) -> Callable[[], bool]:
    """Return a condition: the watch listens to a Sentinel."""
    return lambda: network.open == [name] and bool(network[name].asked("SENTINEL"))


async def break_off(network: Network, name: str, trouble: object) -> None:
    """Wait until the watch listens to a Sentinel, and break that connection."""
    await until(ready(network, name))
    network[name].told.clear()
    network[name].open[0].reply(trouble)


# Rule 1: one Sentinel is listened to


async def test_each_change_of_the_master_is_reported_and_no_other(
    network: Network, watch: MasterWatch, switches: Switches
) -> None:
    watch.start()
    await until(ready(network, "a"))
    network.switch(*NAMES)
    sentinel = network["a"]
    sentinel.publish("other", NEW)
    # As after a PING.
    sentinel.open[0].reply([b"pong", b""])
    sentinel.publish("main", NEW)
    await until(sentinel.open[0].replies.empty)
    await until(lambda: switches.count)
    sentinel.publish("main", OLD)
    await until(lambda: switches.count > 1)
    assert switches.count == 2
    assert network.open == ["a"]


async def test_a_watch_can_be_started_and_closed_twice_and_used_again(
    network: Network, watch: MasterWatch
) -> None:
    await watch.close()
    for _ in range(2):
        watch.start()
        watch.start()
        await until(ready(network, "a"))
        await asyncio.gather(watch.close(), watch.close())
        assert network.open == []
    assert len(network["a"].asked("SUBSCRIBE")) == 2


@pytest.mark.parametrize(
    "trouble", [refused(), [b"message", b"+switch-master", b"main"]]
)
async def test_when_a_sentinel_goes_away_the_next_one_is_listened_to(
    network: Network, watch: MasterWatch, switches: Switches, trouble: object
) -> None:
    """The first follows the last; a Sentinel that sends nonsense is replaced too."""
    watch.start()
    for name in (*NAMES, "a"):
        await break_off(network, name, trouble)
    await until(ready(network, "b"))
    assert switches.count == 0


@pytest.mark.parametrize("where", ["connect", "SUBSCRIBE", "SENTINEL"])
@pytest.mark.parametrize(
    "error", [refused(), OSError("refused"), ResponseError("NOPERM no permissions")]
)
async def test_a_sentinel_that_is_of_no_use_is_skipped(
    network: Network, watch: MasterWatch, where: str, error: Exception
) -> None:
    if where == "connect":
        network["a"].refusals.append(error)
    else:
        network["a"].refuses[where] = error
    watch.start()
    await until(ready(network, "b"))


@pytest.mark.parametrize("timing", [IMPATIENT])
@pytest.mark.parametrize("where", ["connect", "SUBSCRIBE", "PING"])
async def test_a_sentinel_that_freezes_at_any_step_is_skipped(
    network: Network, watch: MasterWatch, switches: Switches, where: str
) -> None:
    network["a"].stalls.add(where)
    network["a"].silent.add(where)
    watch.start()
    await until(ready(network, "b"))
    network.switch(*NAMES)
    network["b"].publish("main", NEW)
    await until(lambda: switches.count)


async def test_an_outage_is_logged_when_all_sentinels_are_away(
    network: Network, watch: MasterWatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, master_watch.__name__)
    for name in ("a", "b"):
        network[name].refusals.append(refused())
    watch.start()
    await until(ready(network, "c"))
    assert caplog.messages == []
    for name in NAMES:
        network[name].refusals.extend([refused()] * 5)
    network["c"].cut()
    await until(lambda: not any(each.refusals for each in network.servers.values()))
    await until(lambda: len(caplog.messages) == 2)
    service = "The Sentinel service of sentinel://a:26379,b:26379,c:26379/main?db=0"
    assert caplog.messages == [
        f"{service} cannot be listened to: refused; trying again until it can",
        f"{service} can be listened to again",
    ]


# Rule 2: changes that were missed


async def test_a_missed_change_is_reported_once(
    network: Network, watch: MasterWatch, master: Master, switches: Switches
) -> None:
    watch.start()
    await until(ready(network, "a"))
    master.reached.add(OLD)
    network.switch(*NAMES)
    await break_off(network, "a", refused())
    await until(lambda: switches.count)
    master.reached.add(NEW)
    await break_off(network, "b", refused())
    await until(ready(network, "c"))
    assert switches.count == 1


@pytest.mark.parametrize(
    ("reached", "reported"),
    [([], 0), ([NEW], 0), ([OLD], 1), ([OLD, NEW], 1)],
    ids=["none", "new", "old", "both"],
)
async def test_a_change_before_the_watch_is_reported_if_it_affects_a_connection(
    network: Network,
    watch: MasterWatch,
    master: Master,
    switches: Switches,
    reached: list[Address],
    reported: int,
) -> None:
    master.reached.update(reached)
    network.switch(*NAMES)
    watch.start()
    await break_off(network, "a", refused())
    await until(ready(network, "b"))
    assert switches.count == reported


# Rule 3: Sentinels learn of a change one after the other


async def test_new_connections_ask_the_sentinel_that_has_reported_the_change(
    network: Network, watch: MasterWatch, master: Master, switches: Switches
) -> None:
    network["a"].refusals.append(refused())
    watch.start()
    await until(ready(network, "b"))
    network.switch("b")
    network["b"].publish("main", NEW)
    await until(lambda: switches.count)
    assert await master.find() == NEW
