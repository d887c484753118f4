"""Which node of a cluster serves which slot, and when nodes are asked for that."""

import asyncio
import itertools
import re
from dataclasses import replace
from typing import Any

import pytest
from redis.exceptions import AuthenticationError, BusyLoadingError

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.redis.commands import NotSent
from fast_channels.layers.redis.topology import Topology
from fast_channels.layers.redis.wire import ResponseError
from tests.waiting import turn, until

from .fake_cluster import SECRET, TIMING, A, B, C, FakeCluster, client_of, host_of


@pytest.fixture
async def fake(monkeypatch: pytest.MonkeyPatch) -> FakeCluster:
    return FakeCluster(monkeypatch)


# For questions that no node answers.
BRIEF: dict[str, Any] = {"another": 0.001, "patience": 0.05}


def soon(seconds: float = 5) -> float:
    return asyncio.get_running_loop().time() + seconds


# Rule 1: when nodes are asked


async def test_no_node_is_asked_without_a_reason(fake: FakeCluster) -> None:
    """The answer to the first question is kept."""
    async with client_of(fake) as client:
        await turn()
        assert fake.questions == 0
        for _ in range(3):
            assert await client.cluster.topology.master_of(1, soon()) == A
            assert await client.cluster.topology.master_of(3, soon()) == B
        assert fake.questions == 1
        assert fake.open == []


async def test_many_reasons_are_one_question(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        topology = client.cluster.topology
        waiting = [topology.master_of(slot, soon()) for slot in (1, 2, 3) * 10]
        for _ in range(5):
            topology.refresh()
        assert [*await asyncio.gather(*waiting)] == [A, A, B] * 10
        assert fake.questions == 1


async def test_a_reason_after_the_answer_is_another_question(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        topology = client.cluster.topology
        for number in range(1, 4):
            await topology.refresh()
            assert fake.questions == number


async def test_a_task_that_no_longer_waits_does_not_stop_the_question(
    fake: FakeCluster,
) -> None:
    async with client_of(fake) as client:
        first, second = (
            asyncio.create_task(client.cluster.topology.master_of(1, soon()))
            for _ in range(2)
        )
        await asyncio.sleep(0)
        first.cancel()
        assert await second == A
        assert first.cancelled()


async def test_pauses_grow_until_all_masters_are_known(fake: FakeCluster) -> None:
    for node in fake.nodes.values():
        node.unreachable = True
    async with client_of(fake, "a", reflection=(0.002, 0.008)) as client:
        for _ in range(5):
            await client.cluster.topology.refresh()
        times = fake[A].attempts
        pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
        for pause, least in zip(pauses, [0.004, 0.008, 0.008, 0.008], strict=True):
            assert pause >= least - 0.001


async def test_a_node_that_knows_what_has_changed_is_asked_first(
    fake: FakeCluster,
) -> None:
    """Each of several such nodes is asked, one question after the other."""
    async with client_of(fake, "a", "b") as client:
        topology = client.cluster.topology
        await topology.refresh()
        for _ in range(3):
            questions = fake[C].questions
            await topology.refresh(C)
            assert fake[C].questions == questions + 1
        before = fake.questions
        topology.refresh(C)
        topology.refresh(B)
        await until(lambda: fake.questions == before + 2)
        await topology.refresh()


# Rule 2: redirections


async def test_a_redirection_is_believed_at_once_and_checked(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        topology = client.cluster.topology
        await topology.master_of(1, soon())
        topology.moved(1, C)
        assert await topology.master_of(1, soon()) == C
        assert client.switched == [1]
        await topology.refresh()
        assert await topology.master_of(1, soon()) == A
        assert fake.questions == 2
        assert client.switched == [1, 1]


# Rule 3: which nodes are asked


async def test_a_node_that_refuses_or_breaks_is_followed_by_the_next(
    fake: FakeCluster,
) -> None:
    fake[A].unreachable = True
    fake[B].loses.add("CLUSTER")
    fake[B].refuses["CLUSTER"] = BusyLoadingError("Redis is loading the dataset")
    async with client_of(fake, "a", "b", "c") as client:
        assert await client.cluster.topology.master_of(1, soon()) == A
        assert fake[C].questions == 1
        assert client.cluster.topology.problem is None


async def test_a_silent_node_is_followed_by_the_next(fake: FakeCluster) -> None:
    fake[A].silent.add("CLUSTER")
    fake[B].stalls.add("connect")
    async with client_of(fake, "a", "b", "c") as client:
        assert await client.cluster.topology.master_of(1, soon()) == A
        assert fake[C].questions == 1
        await turn()
        assert fake.open == []


async def test_a_slow_node_can_still_answer(fake: FakeCluster) -> None:
    """The first answer counts, whichever node gives it."""
    fake[A].stalls.add("read")
    fake[B].silent.add("CLUSTER")
    async with client_of(fake) as client:
        finding = asyncio.create_task(client.cluster.topology.master_of(1, soon()))
        await until(lambda: fake.questions == 2)
        fake[A].go_on.set()
        assert await finding == A


async def test_the_nodes_that_the_user_has_named_are_asked_again(
    fake: FakeCluster,
) -> None:
    """All nodes of the last answer can have been replaced."""
    fake.owners = {1: B, 2: B, 3: B}
    async with client_of(fake, "a") as client:
        assert await client.cluster.topology.master_of(1, soon()) == B
        fake[B].unreachable = True
        fake.promote(B, C)
        await client.cluster.topology.refresh()
        assert await client.cluster.topology.master_of(1, soon()) == C


async def test_a_node_outside_the_cluster_is_passed_over(fake: FakeCluster) -> None:
    """It has been reset, or has not joined the cluster yet."""
    fake[A].view = []
    async with client_of(fake) as client:
        for _ in range(5):
            await client.cluster.topology.refresh()
            assert await client.cluster.topology.master_of(1, soon()) == A


async def test_an_answer_of_another_shape_does_not_end_the_questions(
    fake: FakeCluster,
) -> None:
    fake[A].view = [[0, 16383]]
    fake[B].view = [[0, 16383, [b"\xff", 1, b"id", []]]]
    async with client_of(fake) as client:
        topology = client.cluster.topology
        await topology.refresh()
        assert topology.problem is not None
        fake[B].view = None
        assert await topology.master_of(1, soon()) == A


# Names of nodes


MASTERS: list[tuple[list[Any], tuple[str, int]]] = [
    ([b"10.0.0.1", 6380, b"id", []], ("10.0.0.1", 6380)),
    ([b"2001:db8::1", 6380, b"id", []], ("2001:db8::1", 6380)),
    ([b"redis-1.example", 6380, b"id", [b"ip", b"::1"]], ("redis-1.example", 6380)),
    # Redis 6 has no last field, and Redis 3 no ID.
    ([b"10.0.0.1", 6380, b"id"], ("10.0.0.1", 6380)),
    ([b"10.0.0.1", 6380], ("10.0.0.1", 6380)),
    # A node that announces no endpoint, one that does not know its address, and
    # one without a hostname where hostnames are announced.
    ([None, 6380, b"id", [b"ip", b"10.0.0.1"]], ("a", 6380)),
    ([b"", 6380, b"id", []], ("a", 6380)),
    ([b"?", 6380, b"id", [b"ip", b"10.0.0.1"]], ("10.0.0.1", 6380)),
    ([b"?", 6380, b"id", []], ("a", 6380)),
    ([b"?", 6380, b"id"], ("a", 6380)),
]


@pytest.mark.parametrize(("master", "address"), MASTERS)
async def test_a_master_has_the_address_that_is_announced(
    fake: FakeCluster, master: list[Any], address: tuple[str, int]
) -> None:
    fake[A].view = [[0, 16383, master]]
    async with client_of(fake, "a") as client:
        assert await client.cluster.topology.master_of(1, soon()) == address


# No answer, or no master


async def test_the_error_names_every_node_and_its_problem(fake: FakeCluster) -> None:
    """It comes at once, says that nothing was sent, and shows no password."""
    fake[A].unreachable = True
    fake[B].silent.add("CLUSTER")
    fake[C].view = []
    expected = (
        "cluster redis://:***@a:7000,b:7000,c:7000 is not available: "
        "no node answers (redis://:***@a:7000/0: refused; "
        "redis://:***@b:7000/0: it does not answer; "
        "redis://:***@c:7000/0: it knows no masters)"
    )
    async with client_of(fake, "a", "b", "c", password=SECRET, **BRIEF) as client:
        text = ""
        # A busy machine can be too slow for the others.
        while text != expected:
            with pytest.raises(NotSent) as caught:
                await client.cluster.topology.master_of(1, soon())
            text = str(caught.value)
            assert text.startswith(expected[:61])


async def test_a_node_is_named_once_however_it_is_known(fake: FakeCluster) -> None:
    fake.owners = {1: A, 2: A, 3: A}
    async with client_of(fake, "a", "a") as client:
        topology = client.cluster.topology
        await topology.refresh()
        fake[A].unreachable = True
        await topology.refresh()
        assert len(fake[A].attempts) == 2
        assert topology.problem == ("no node answers (redis://a:7000/0: refused)")
        # What was known is used until there is an answer.
        assert await topology.master_of(1, soon()) == A


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (
            ResponseError("This instance has cluster support disabled"),
            "it is not a node of a Redis Cluster; write hosts=[...] instead of clu",
        ),
        (
            AuthenticationError("invalid password"),
            "it refuses the username or the password (invalid password)",
        ),
        (TypeError("unexpected argument 'x'"), "unexpected argument 'x'"),
    ],
)
async def test_a_permanent_problem_is_final(
    fake: FakeCluster, error: Exception, text: str
) -> None:
    """The error differs from that of a node that is away, which is worth retrying."""
    fake[A].refusals.append(error)
    async with client_of(fake, "a") as client:
        with pytest.raises(RedisUnavailable, match=re.escape(text)) as caught:
            await client.cluster.topology.master_of(1, soon())
        assert not isinstance(caught.value, NotSent)
        assert await client.cluster.topology.master_of(1, soon()) == A


async def test_waiting_for_an_answer_ends_at_the_deadline(fake: FakeCluster) -> None:
    fake[A].silent.add("CLUSTER")
    async with client_of(fake, "a") as client:
        with pytest.raises(NotSent, match=r": no node has answered in time$"):
            await client.cluster.topology.master_of(1, soon(0.02))


async def test_a_master_can_become_known_without_an_answer(fake: FakeCluster) -> None:
    """A redirection names it while the node with the question is silent."""
    fake[A].silent.add("CLUSTER")
    async with client_of(fake, "a") as client:
        topology = client.cluster.topology
        finding = asyncio.create_task(topology.master_of(1, soon(0.02)))
        await asyncio.sleep(0)
        topology.moved(1, B)
        assert await finding == B


async def test_a_slot_without_a_master_is_waited_for(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        topology = client.cluster.topology
        await topology.refresh()
        with pytest.raises(NotSent, match=r": no node serves slot 9$"):
            await topology.master_of(9, soon(0.02))
        finding = asyncio.create_task(topology.master_of(9, soon()))
        await turn()
        fake.owners[9] = C
        assert await finding == C
        # It had no other master before.
        assert client.switched == []


async def test_a_slot_that_has_no_master_any_more_keeps_it(fake: FakeCluster) -> None:
    """The master may come back, and another one is learned of by a redirection."""
    async with client_of(fake) as client:
        topology = client.cluster.topology
        await topology.refresh()
        del fake.owners[3]
        await topology.refresh()
        assert topology.all_masters == {A}
        assert await topology.master_of(3, soon()) == B
        assert client.switched == []


# Closing


@pytest.mark.parametrize("stage", ["pause", "connect", "read"])
async def test_closing_ends_the_question_and_fails_waiting_tasks(
    fake: FakeCluster, stage: str
) -> None:
    """The tasks raise an error instead of being cancelled."""
    fake[A].stalls.add(stage)
    pause = 5.0 if stage == "pause" else 0.001
    topology = Topology(
        host_of("a"),
        {1},
        lambda _: None,
        replace(TIMING, reflection=(pause, pause)),
    )
    finding = asyncio.create_task(topology.master_of(1, soon()))
    await (turn() if stage == "pause" else until(lambda: fake[A].stalled))
    await topology.close("the layer was closed")
    with pytest.raises(NotSent, match=r"is not available: the layer was closed$"):
        await finding
    assert fake.open == []
    await topology.close("the layer was closed")


async def test_questions_can_be_asked_again_after_closing(fake: FakeCluster) -> None:
    async with client_of(fake) as client:
        await client.cluster.topology.refresh()
        await client.cluster.close()
        await client.cluster.topology.refresh()
        assert client.cluster.topology.problem is None


def test_nodes_share_the_options_of_the_cluster() -> None:
    host = host_of("a", username="me", client_name="mine")
    node = host.at(("b", 1))
    assert node.options == {**host.options, "host": "b", "port": 1}
    assert host.nodes == (host.at(A),)
