"""Commands reach the master of their slot while slots move and nodes fail."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from redis.exceptions import (
    AskError,
    BusyLoadingError,
    ClusterDownError,
    MovedError,
    TryAgainError,
)

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.cluster import Cluster, SlotCommands
from fast_channels.layers.redis.commands import NotSent
from fast_channels.layers.redis.wire import RedisConnectionError, ResponseError
from tests.waiting import turn, until

from .fake_cluster import (
    SECRET,
    TIMING,
    A,
    B,
    C,
    Client,
    FakeCluster,
    client_of,
    host_of,
)


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    return FakeCluster(monkeypatch)


def forms(test: Callable[..., Awaitable[None]]) -> Any:
    """Run a test with redirections as redis-py 5 and later ones parse them."""
    return pytest.mark.parametrize("classified", [False, True])(test)


# Rule 1: a connection for each master


async def test_slots_of_a_master_share_its_connection(fake: FakeCluster) -> None:
    """Commands of one turn leave in one write."""
    async with client_of(fake) as client:
        await client.cluster.topology.refresh()
        replies = await asyncio.gather(*map(client.get, (1, 2, 3)))
        assert replies == ["a: GET 1", "a: GET 2", "b: GET 3"]
        assert fake[A].writes[1:] == ["GET 1;GET 2;"] or fake.questions
        assert fake.open == [A, B]


async def test_nodes_are_connected_to_when_they_are_used(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        await client.get(3)
        assert fake.open == [B]
        assert client.cluster.node_of(1) is None
        assert client.cluster.node_of(9) is None


async def test_flushing_uses_the_connections_to_all_masters(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        masters = await client.cluster.masters()
        names = [master.name for master in masters]
        assert sorted(names) == ["redis://a:7000/0", "redis://b:7000/0"]
        assert await masters[0].execute("PING") == b"PONG"
        for node in fake.nodes.values():
            node.unreachable = True
        with pytest.raises(NotSent, match=r"^cluster .* no node answers"):
            await client.cluster.masters()


# Rule 2: redirections


@forms
@pytest.mark.parametrize("name", ["c", "", "?"])
async def test_a_slot_that_has_moved_is_followed(
    fake: FakeCluster, classified: bool, name: str
) -> None:
    """Other slots stay; later commands go to the new master without a detour."""
    fake.classified = classified
    async with client_of(fake) as client:
        await asyncio.gather(client.get(1), client.get(2))
        fake.name = lambda _: name
        if name == "c":
            fake.owners[1] = C
        else:
            # The same host, by another port.
            moved = ("a", 7001)
            fake.nodes[moved] = fake[C]
            fake[C].address = fake.owners[1] = moved
        before = len(fake[A].commands)
        assert await client.get(1) == f"{fake.owners[1][0]}: GET 1"
        assert await client.get(1) == f"{fake.owners[1][0]}: GET 1"
        assert len(fake[A].commands) == before + 1
        assert await client.get(2) == "a: GET 2"
        assert client.switched == [1]
        assert client.lost == []


@forms
async def test_a_slot_that_is_moving_is_followed_once(
    fake: FakeCluster, classified: bool
) -> None:
    """The command goes to the target, right after ASKING; the slot stays."""
    fake.classified = classified
    fake.moves[1] = C
    async with client_of(fake) as client:
        for number in range(1, 3):
            assert await client.get(1) == "c: GET 1"
            assert len(fake[A].commands) == len(fake[C].commands) == number
        assert fake[C].writes == ["ASKING;GET 1;"] * 2
        assert client.switched == []


async def test_the_error_of_a_redirected_command_is_its_own(fake: FakeCluster) -> None:
    fake.moves[1] = C
    fake[C].replies[1] = [ResponseError("WRONGTYPE Operation against a key")]
    async with client_of(fake) as client:
        with pytest.raises(ResponseError, match=r"WRONGTYPE"):
            await client.get(1)


@forms
async def test_nodes_that_refer_to_each_other_are_asked_until_the_deadline(
    fake: FakeCluster, classified: bool
) -> None:
    """The error has a text of its own, since no single node has failed."""
    fake.classified = classified
    async with client_of(fake, timeout=0.04) as client:
        await client.cluster.topology.refresh()
        fake[A].replies[1] = [fake.redirection("MOVED", 1, B)] * 1000
        fake[B].replies[1] = [fake.redirection("MOVED", 1, A)] * 1000
        with pytest.raises(NotSent) as caught:
            await client.get(1)
        text = str(caught.value)
        assert text.startswith(
            "cluster redis://a:7000,b:7000 is not available: slot 1 is moving, or its "
            "nodes do not agree where it is ("
        )
        assert "hosts=" not in text
        assert 1 < len(fake[A].commands) + len(fake[B].commands) < 40


# Rule 3: what is sent again

UNREADY: list[Exception] = [
    TryAgainError("Multiple keys request during rehashing of slot"),
    ResponseError("TRYAGAIN Multiple keys request during rehashing of slot"),
    ClusterDownError("Hash slot not served"),
    ResponseError("CLUSTERDOWN The cluster is down"),
    BusyLoadingError("Redis is loading the dataset in memory"),
    ResponseError("Script attempted to access a non local key in a cluster node"),
]


@pytest.mark.parametrize("error", UNREADY, ids=repr)
async def test_a_command_that_a_node_is_not_ready_for_is_sent_again(
    fake: FakeCluster, error: Exception
) -> None:
    """That is a reason to ask for the masters."""
    fake[A].replies[1] = [error] * 3
    async with client_of(fake) as client:
        await client.cluster.topology.refresh()
        assert await client.get(1) == "a: GET 1"
        assert len(fake[A].commands) == 4
        await until(lambda: fake.questions > 1)


@pytest.mark.parametrize("error", UNREADY, ids=repr)
async def test_a_command_that_no_node_becomes_ready_for_fails(
    fake: FakeCluster, error: Exception
) -> None:
    fake[A].replies[1] = [error] * 1000
    async with client_of(fake, timeout=0.03) as client:
        await client.cluster.topology.refresh()
        with pytest.raises(RedisUnavailable, match=re.escape(str(error))) as caught:
            await client.get(1)
        assert "hosts=" not in str(caught.value)


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (ResponseError("WRONGTYPE Operation against a key"), ResponseError),
        (ResponseError("NOREPLICAS Not enough good replicas"), RedisUnavailable),
    ],
)
async def test_any_other_error_is_raised_at_once(
    fake: FakeCluster, reply: Exception, error: type[Exception]
) -> None:
    fake[A].replies[1] = [reply]
    async with client_of(fake) as client:
        with pytest.raises(error, match=str(reply)):
            await client.get(1)
        assert len(fake[A].commands) == 1


async def test_a_command_is_sent_again_if_its_node_refuses_connections(
    fake: FakeCluster,
) -> None:
    """Meanwhile another node may become the master."""
    fake[A].unreachable = True
    async with client_of(fake, "b") as client:
        reply = client.get(1)
        await until(lambda: len(fake[A].attempts) > 2)
        assert not reply.done()
        fake.promote(A, C)
        assert await reply == "c: GET 1"
        assert sorted(client.switched) == [1, 2]


async def test_a_command_that_may_have_been_executed_fails(fake: FakeCluster) -> None:
    fake[A].loses.add("GET")
    async with client_of(fake) as client:
        with pytest.raises(RedisUnavailable, match=r"the line was cut") as caught:
            await client.get(1)
        assert not isinstance(caught.value, NotSent)
        assert len(fake[A].commands) == 1
        assert await client.get(1) == "a: GET 1"


async def test_a_command_without_a_reply_fails_at_its_deadline(
    fake: FakeCluster,
) -> None:
    fake[A].silent.add("GET")
    async with client_of(fake, timeout=0.1) as client:
        await client.cluster.topology.refresh()
        with pytest.raises(RedisUnavailable, match=r"did not reply for 0.1 s"):
            await client.get(1, timeout=0.01)


@pytest.mark.parametrize("how", ["all nodes", "the master"])
async def test_after_a_command_was_given_up_later_ones_fail_sooner(
    fake: FakeCluster, how: str
) -> None:
    """One that succeeds gets the next ones their full time back."""
    away = fake.nodes.values() if how == "all nodes" else [fake[A]]
    for node in away:
        node.unreachable = True
    async with client_of(fake, timeout=0.05) as client:
        for timeout in (0.05, 60, 60):
            with pytest.raises(NotSent):
                await client.get(1, timeout=timeout)
        for node in fake.nodes.values():
            node.unreachable = False
        assert await client.get_at_last(1) == "a: GET 1"
        # It takes longer than the time for a node whose latest command was given up.
        fake[A].replies[1] = [UNREADY[0]] * 8
        assert await client.get(1, timeout=60) == "a: GET 1"


async def test_a_wrong_password_is_an_error_at_once(fake: FakeCluster) -> None:
    """Sending again would not help."""
    for node in fake.nodes.values():
        node.refuses["CLUSTER"] = ResponseError(
            "This instance has cluster support disabled"
        )
    async with client_of(fake) as client:
        for _ in range(2):
            with pytest.raises(RedisUnavailable, match=r"write hosts=\[...\]"):
                await client.get(1)
        assert fake.questions == 4


# Rule 4: nodes that fail, are silent, or are replaced


@pytest.mark.parametrize("how", ["cut", "refused"])
async def test_a_node_that_fails_is_a_reason_to_ask(
    fake: FakeCluster, how: str
) -> None:
    """The slots of a node that has lost its connection may have lost data."""
    async with client_of(fake) as client:
        await asyncio.gather(*map(client.get, (1, 3)))
        questions = fake.questions
        if how == "refused":
            fake[A].unreachable = True
        fake[A].cut()
        await until(lambda: fake.questions > questions)
        await until(lambda: client.lost)
        assert sorted(client.lost) == [1, 2]
        fake[A].unreachable = False
        await until(lambda: A in fake.open)
        assert await client.get(1) == "a: GET 1"
        assert sorted(client.lost) == [1, 2]
        assert client.switched == []


@pytest.mark.parametrize("where", ["reply", "connect"])
async def test_a_silent_node_is_a_reason_to_ask(fake: FakeCluster, where: str) -> None:
    """Once another node is the master, it gets what the silent one has not got."""
    if where == "reply":
        fake[A].silent.add("GET")
    async with client_of(fake, "b") as client:
        await client.cluster.topology.refresh()
        fake[A].stalls |= {where} & {"connect"}
        reply = client.get(1)
        await until(lambda: fake.questions > 2)
        fake.promote(A, C)
        if where == "reply":
            with pytest.raises(RedisUnavailable, match=r"another node has taken over"):
                await reply
        else:
            assert await reply == "c: GET 1"
        assert await client.get(1) == "c: GET 1"
        assert sorted(client.switched) == [1, 2]
        await until(lambda: A not in fake.open)


async def test_a_node_is_not_silent_at_once(fake: FakeCluster) -> None:
    fake[A].silent.add("GET")
    async with client_of(fake, look=0.001, silence=60) as client:
        reply = client.get(1)
        await until(lambda: fake[A].commands)
        await asyncio.sleep(0.01)
        assert fake.questions == 1
        fake[A].open[0].reply(b"late")
        assert await reply == b"late"


async def test_the_last_replies_of_a_former_master_are_awaited(
    fake: FakeCluster,
) -> None:
    fake[A].silent.add("GET")
    async with client_of(fake, look=5, farewell=5) as client:
        reply = client.get(1)
        await until(lambda: fake[A].commands)
        fake.promote(A, C)
        await client.cluster.topology.refresh()
        assert await client.get(1) == "c: GET 1"
        fake[A].open[0].reply(b"late")
        assert await reply == b"late"


async def test_a_former_master_that_breaks_is_not_connected_to_again(
    fake: FakeCluster,
) -> None:
    fake[A].silent.add("GET")
    async with client_of(fake, "b", look=5, farewell=60) as client:
        reply = client.get(1)
        await until(lambda: fake[A].commands)
        fake.promote(A, C)
        await client.cluster.topology.refresh()
        attempts = len(fake[A].attempts)
        fake[A].unreachable = True
        fake[A].cut()
        with pytest.raises(RedisUnavailable, match=r"the line was cut"):
            await reply
        await client.cluster.topology.refresh()
        assert await client.get(1) == "c: GET 1"
        # It may be asked for the masters, but only while it is known to be one.
        assert len(fake[A].attempts) == attempts
        assert client.lost == []


@pytest.mark.parametrize("pending", [False, True])
async def test_a_former_master_is_disconnected(
    fake: FakeCluster, pending: bool
) -> None:
    async with client_of(fake) as client:
        await client.get(1)
        if pending:
            fake[A].silent.add("GET")
            client.get(1).add_done_callback(lambda reply: reply.exception())
            await turn()
        fake.promote(A, C)
        await client.cluster.topology.refresh()
        await until(lambda: A not in fake.open)


# Rule 5 of the node: logs


async def test_the_failure_of_a_node_is_logged_once_without_its_password(
    fake: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(fake, password=SECRET) as client:
        await asyncio.gather(*map(client.get, (1, 2, 3)))
        fake[A].unreachable = True
        fake[A].cut()
        attempts = len(fake[A].attempts)
        await until(lambda: len(fake[A].attempts) > attempts + 3)
        assert SlotCommands(client.cluster, 1).failing
        fake[A].unreachable = False
        await until(lambda: not SlotCommands(client.cluster, 1).failing)
    assert [record.getMessage() for record in caplog.records] == [
        "redis://:***@a:7000/0 cannot be reached: refused; trying again until it can",
        "redis://:***@a:7000/0 can be reached again",
    ]


async def test_a_broken_connection_that_is_replaced_at_once_is_not_logged(
    fake: FakeCluster, caplog: pytest.LogCaptureFixture
) -> None:
    async with client_of(fake) as client:
        await client.get(1)
        fake[A].cut()
        await until(lambda: fake[A].asked("PING"))
        assert await client.get(1) == "a: GET 1"
    assert caplog.records == []


async def test_a_node_that_denies_a_ping_has_been_reached(fake: FakeCluster) -> None:
    fake[A].refuses["PING"] = ResponseError("NOPERM no permissions to run 'ping'")
    async with client_of(fake, "b") as client:
        await client.cluster.topology.refresh()
        fake[A].unreachable = True
        reply = client.get(1)
        commands = SlotCommands(client.cluster, 1)
        await until(lambda: commands.failing)
        fake[A].unreachable = False
        assert await reply == "a: GET 1"
        await until(lambda: not commands.failing)


async def test_a_node_is_tried_again_after_a_pause(fake: FakeCluster) -> None:
    """Also for reasons that an attempt at once would not change."""
    async with client_of(fake, "b", probe=0.03) as client:
        await client.get(1)
        wrong = RedisConnectionError("invalid password")
        fake[A].refusals.extend([ResponseError(str(wrong))] * 100)
        attempts = len(fake[A].attempts)
        fake[A].cut()
        await asyncio.sleep(0.05)
        assert attempts < len(fake[A].attempts) < attempts + 8


# Cancelling


@pytest.mark.parametrize("stage", ["question", "connect", "send", "reply", "pause"])
async def test_cancelling_a_command_harms_no_other(
    fake: FakeCluster, stage: str
) -> None:
    node = fake[A]
    async with client_of(fake, "b", pause=(60, 60)) as client:
        if stage == "question":
            fake[B].stalls.add("read")
        else:
            await client.cluster.topology.refresh()
        if stage in {"connect", "send"}:
            node.stalls.add(stage)
        node.silent |= {"GET"} if stage == "reply" else set()
        node.replies[1] = [UNREADY[0]] if stage == "pause" else []
        command = client.get(1, timeout=100)
        await until(lambda: node.stalled or fake[B].stalled or node.commands)
        await turn()
        command.cancel()
        with pytest.raises(asyncio.CancelledError):
            await command
        for each in fake.nodes.values():
            each.stalls.clear()
            each.silent.clear()
            each.go_on.set()
        node.replies.clear()
        if stage == "reply":
            node.open[0].reply("late")
        assert await client.get(1) == "a: GET 1"


# Commands for one slot


async def test_commands_for_a_slot(fake: FakeCluster) -> None:
    loop = asyncio.get_running_loop()
    async with client_of(fake, timeout=0.5) as client:
        commands = SlotCommands(client.cluster, 1)
        assert 0 < commands.deadline() - loop.time() <= 0.5
        assert (commands.connects, commands.failing) == (0, False)
        assert await commands.execute("GET", 1) == "a: GET 1"
        assert await commands.execute("GET", 1, deadline=loop.time() + 1) == "a: GET 1"
        assert (commands.connects, commands.failing) == (1, False)
        fake[A].replies[1] = [ResponseError("WRONGTYPE, which no task wants to know")]
        commands.post("GET", 1)
        await until(lambda: len(fake[A].commands) == 3)
        await turn()


async def test_a_slot_fails_while_no_node_answers(fake: FakeCluster) -> None:
    fake[A].unreachable = True
    async with client_of(fake, "a", timeout=0.02) as client:
        commands = SlotCommands(client.cluster, 1)
        with pytest.raises(NotSent):
            await commands.execute("GET", 1)
        await until(lambda: commands.failing)
        fake[A].unreachable = False
        assert await client.get_at_last(1) == "a: GET 1"
        assert not commands.failing


# Other connections to the master of a slot


async def test_a_connection_leads_to_the_master_of_its_slot(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        first = client.cluster.connect(3)
        await first.connect()
        assert fake.open == [B]
        fake.promote(B, C)
        assert client.cluster.broken(3, MovedError("3 c:7000"))
        assert client.switched == [3]
        second = client.cluster.connect(3)
        await second.connect()
        assert fake.open == [B, C]
        for connection in (first, second):
            await connection.disconnect(nowait=True)


async def test_a_connection_that_breaks_is_a_reason_to_ask(fake: FakeCluster) -> None:
    """Only a slot that has moved is no failure."""
    async with client_of(fake) as client:
        await client.cluster.topology.refresh()
        for error in (RedisConnectionError("the line was cut"), AskError("3 c:7000")):
            questions = fake.questions
            assert not client.cluster.broken(3, error)
            await until(lambda: fake.questions == questions + 1 and not fake.open)  # noqa: B023 # it is awaited
            await turn()
        fake.owners[3] = ("b", 7001)
        assert client.cluster.broken(3, ResponseError("MOVED 3 :7001"))
        assert client.cluster.topology.masters[3] == ("b", 7001)


async def test_a_connection_fails_if_no_node_answers(fake: FakeCluster) -> None:
    fake[A].unreachable = True
    async with client_of(fake, "a") as client:
        connection = client.cluster.connect(3)
        with pytest.raises(NotSent, match=r"no node answers"):
            await connection.connect()
        await connection.disconnect(nowait=True)


# Closing


@pytest.mark.parametrize(
    "stage", ["question", "connect", "send", "reply", "pause", "retired"]
)
async def test_closing_fails_what_is_pending(fake: FakeCluster, stage: str) -> None:
    """It does not wait, and leaves nothing behind."""
    loop = asyncio.get_running_loop()
    node = fake[A]
    async with client_of(fake, "b", farewell=60, pause=(60, 60), timeout=100) as client:
        if stage == "question":
            fake[B].stalls.add("read")
        else:
            await client.cluster.topology.refresh()
        if stage in {"connect", "send"}:
            node.stalls.add(stage)
        node.silent |= {"GET"} if stage in {"reply", "retired"} else set()
        node.replies[1] = [UNREADY[0]] * 2 if stage == "pause" else []
        commands = SlotCommands(client.cluster, 1)
        commands.post("GET", 1)
        pending = client.get(1)
        await until(lambda: node.stalled or fake[B].stalled or node.commands)
        await turn()
        if stage == "retired":
            fake.promote(A, C)
            client.cluster.topology.moved(1, C)
            client.cluster.topology.moved(2, C)
            await client.cluster.topology.refresh()
        began = loop.time()
        await client.cluster.close()
        assert loop.time() - began < 1
        with pytest.raises(RedisUnavailable, match=r": the layer was closed$"):
            await pending
        assert fake.open == []
        assert not fake.nodes[A].stalled


async def test_a_cluster_can_be_used_again_after_closing(fake: FakeCluster) -> None:
    async with client_of(fake, look=0.001, silence=0.002) as client:
        for _ in range(2):
            assert await client.get(1) == "a: GET 1"
            await client.cluster.close()
            await client.cluster.close()
            assert fake.open == []
        questions = fake.questions
        fake[A].silent.add("GET")
        pending = client.get(1)
        await until(lambda: fake.questions > questions)
        pending.cancel()


async def test_closing_ends_the_pause_before_a_node_is_tried_again(
    fake: FakeCluster,
) -> None:
    async with client_of(fake, "b") as client:
        await client.get(1)
        fake[A].refusals.extend([ResponseError("it is not ready")] * 100)
        fake[A].cut()
        await until(lambda: SlotCommands(client.cluster, 1).failing)
        await client.cluster.close()
        attempts, questions = len(fake[A].attempts), fake.questions
        await asyncio.sleep(0.02)
        assert (len(fake[A].attempts), fake.questions) == (attempts, questions)


def test_two_event_loops_have_their_own_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def use() -> None:
        fake = FakeCluster(monkeypatch)
        async with client_of(fake) as client:
            assert await client.get(1) == "a: GET 1"

    for _ in range(2):
        asyncio.run(use())


async def test_the_timing_is_that_of_the_class_by_default(fake: FakeCluster) -> None:
    del fake
    client = Client(host_of(), 5, TIMING)
    cluster = Cluster(
        host_of(), {1}, timeout=5, switched=client.lost.append, lost=client.lost.append
    )
    assert cluster.timing.retry == 0.5
    await cluster.close()
