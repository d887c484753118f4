"""The queue layer: where messages go, in which form, and which are refused."""

import asyncio
import json
import os
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from fast_channels.exceptions import ChannelFull
from fast_channels.layers.redis import RedisChannelLayer, core, shards
from fast_channels.layers.redis.scripts import (
    GROUP_ADD,
    GROUP_DISCARD,
    GROUP_SEND,
    MEMBERS,
    REQUEUE,
    SEND,
)
from fast_channels.layers.redis.sharding import shard_of
from fast_channels.layers.serializers import CHANNEL_KEY, JSONSerializer, registry

MESSAGE = {"type": "test.message"}


class Redis:
    """The servers: the effects of scripts, on dicts."""

    def __init__(self) -> None:
        # By the index of the host.
        self.queues: list[defaultdict[str, list[bytes]]] = []
        self.groups: list[defaultdict[str, list[str]]] = []
        self.scripts: list[str] = []
        # The capacity that each message was sent with.
        self.capacities: list[int] = []

    def add_host(self) -> "Shard":
        self.queues.append(defaultdict(list))
        self.groups.append(defaultdict(list))
        return Shard(self, len(self.queues) - 1)


class Shard:
    """Stands in for the command connection to a server."""

    def __init__(self, redis: Redis, shard: int) -> None:
        self.redis = redis
        self.queues = redis.queues[shard]
        self.groups = redis.groups[shard]
        self.name = f"redis-{shard}"

        self.failing = False

    def post(self, *command: str | bytes | float) -> None:
        assert command[:2] == ("SET", "asgi:layer")

    def deadline(self) -> float:
        return 5.0

    async def execute(self, *command: Any, deadline: float | None = None) -> Any:
        del deadline
        await asyncio.sleep(0)
        if command[0] == "ZREM":
            self._remove(command[1], 1, command[2])
            return 1
        if command[0] == "ZRANGE":
            return self.queues[command[1]][: command[3] + 1]
        _, sha, count, *rest = command
        script, run = self._scripts[sha]
        self.redis.scripts.append(script)
        keys, arguments = rest[:count], rest[count:]
        return run(self, *keys, *arguments)

    async def close(self) -> None:
        """Do nothing: there is no connection."""

    def _add(self, processes: str, key: str, *arguments: str | float) -> list[int]:
        assert processes == "asgi:processes"
        *_, count, channel = arguments
        assert count == 1
        self.groups[key].append(str(channel))
        return [1]

    def _remove(self, key: str, count: int, channel: str) -> list[int]:
        assert count == 1
        members = self.groups[key]
        members[:] = [member for member in members if member != channel]
        return []

    def _members(self, key: str, processes: str, _: float) -> list[bytes]:
        assert processes == "asgi:processes"
        return [member.encode() for member in self.groups[key]]

    def _send(self, key: str, value: bytes, capacity: int, _: float) -> int:
        self.redis.capacities.append(capacity)
        if len(self.queues[key]) >= capacity:
            return 0
        self.queues[key].append(value)
        return 1

    def _group_send(
        self,
        key: str,
        processes: str,
        lifetime: float,
        prefix: str,
        process_capacity: int,
        capacity: int | str,
        expiry: float,
        writer: str,
        head: bytes,
        tail: bytes,
    ) -> list[list[bytes]]:
        assert (processes, lifetime, expiry) == ("asgi:processes", 86400, 60)
        by_name: defaultdict[str, list[str]] = defaultdict(list)
        for member in self.groups[key]:
            head_of_name, mark, _ = member.partition("!")
            by_name[head_of_name + mark].append(member)
        full: list[bytes] = []
        unsent: list[bytes] = []
        for name, own in by_name.items():
            limit = process_capacity if name.endswith("!") else capacity
            if isinstance(limit, str):
                assert limit == ""
                unsent.append(name.encode())
                continue
            written = json.dumps(own).encode() if writer == "json" else msgpack(own)
            if not self._send(prefix + name, head + written + tail, limit, 60):
                full.append(name.encode())
        return [full, unsent]

    def _requeue(self, key: str, letters: str, _: int) -> int:
        moved = self.queues.pop(letters, [])
        self.queues[key] += moved
        return len(moved)

    _scripts: dict[str, tuple[str, Callable[..., Any]]] = {
        REQUEUE.sha: ("requeue", _requeue),
        GROUP_ADD.sha: ("group_add", _add),
        GROUP_DISCARD.sha: ("group_discard", _remove),
        GROUP_SEND.sha: ("group_send", _group_send),
        MEMBERS.sha: ("members", _members),
        SEND.sha: ("send", _send),
    }


def msgpack(names: list[str]) -> bytes:
    """Write a short list of short names as MessagePack."""
    assert len(names) < 16
    assert all(len(name) < 256 for name in names)
    return bytes([0x90 + len(names)]) + b"".join(
        bytes([0xD9, len(name)] if len(name) > 31 else [0xA0 + len(name)])
        + name.encode()
        for name in names
    )


class CompactJSON(JSONSerializer):
    """A format as users of another library may have registered it."""

    def as_bytes(self, message: Mapping[str, Any]) -> bytes:
        return json.dumps(message, separators=(",", ":")).encode()


class SortedJSON(JSONSerializer):
    """A format that doesn't put the list of channels at the end."""

    def as_bytes(self, message: Mapping[str, Any]) -> bytes:
        return json.dumps(message, sort_keys=True).encode()


@pytest.fixture
def redis(monkeypatch: pytest.MonkeyPatch) -> Redis:
    """Give every layer that is made from now on these servers."""
    redis = Redis()

    def connect(*_: object, timeout: float) -> Shard:
        assert timeout
        return redis.add_host()

    monkeypatch.setattr(shards, "CommandConnection", connect)
    return redis


@pytest.fixture
def more_formats(monkeypatch: pytest.MonkeyPatch) -> None:
    """Register two formats for one test."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))  # pyright: ignore[reportPrivateUsage] # the registry has no way to remove one
    registry.register_serializer("compact", CompactJSON)
    registry.register_serializer("sorted", SortedJSON)


@pytest.fixture
def layer(redis: Redis) -> RedisChannelLayer:
    assert not redis.queues, "the layer connects when it is used first"
    return RedisChannelLayer()


# Names


def test_layer_can_be_imported_from_core() -> None:
    """channels_redis has it in a module of that name."""
    assert core.RedisChannelLayer is RedisChannelLayer


@pytest.mark.parametrize("prefix", ["", "a b", "a!", "a" * 90, None])
async def test_prefix_that_makes_no_valid_name_is_refused(
    layer: RedisChannelLayer, prefix: str
) -> None:
    """new_channel() checks the name."""
    with pytest.raises(TypeError, match=r"channel name"):
        await layer.new_channel(prefix)


async def test_channels_of_an_event_loop_share_one_queue(
    layer: RedisChannelLayer,
) -> None:
    """Their names contain the name of the queue."""
    first, second = [await layer.new_channel(prefix) for prefix in ("a.b", "x")]
    name = layer.non_local_name(first).removeprefix("a.b.")
    assert layer.non_local_name(second) == f"x.{name}"
    await layer.close()


def test_every_process_has_its_own_name(
    layer: RedisChannelLayer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forked process gets a new one; each event loop adds its number."""

    def name() -> list[str]:
        channel = asyncio.run(layer.new_channel())
        return layer.non_local_name(channel).split(".")[1:]

    with_first_process = name(), name()
    parent = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: parent + 1)
    names = [*with_first_process, name()]
    processes, event_loops = zip(*names, strict=True)
    assert processes[0] == processes[1] != processes[2]
    assert len(set(event_loops)) == 3


@pytest.mark.parametrize(
    "channel", ["specific.abc.1!x", "x!y", "x.1!y", "specific.{}.x", "specific.x.{}!y"]
)
async def test_channels_of_other_processes_cannot_be_read(
    layer: RedisChannelLayer, channel: str
) -> None:
    """Plain channels can be, but only by waiting."""
    own = await layer.new_channel()
    channel = channel.format(own.split(".")[1])
    if "!" in channel:
        with pytest.raises(ValueError, match=rf"{channel}.* new_channel\(\)"):
            await layer.receive(channel)
        with pytest.raises(ValueError, match=rf"{channel}.* new_channel\(\)"):
            layer.attach(channel, lambda: None)
    else:
        assert layer.attach(channel, lambda: None) is None
    await layer.close()


# Sending


async def test_reserved_key_is_refused(layer: RedisChannelLayer) -> None:
    """The layer uses it to store the channels that a message is for."""
    message = {**MESSAGE, CHANNEL_KEY: "x"}
    for send in (layer.send, layer.group_send):
        with pytest.raises(ValueError, match=r"not have the key '__asgi_channel__'"):
            await send("name", message)


async def test_message_for_a_process_names_its_channel(
    layer: RedisChannelLayer, redis: Redis
) -> None:
    """A message for a plain channel does not."""
    await layer.send("specific.abc.1!x", MESSAGE)
    await layer.send("jobs", MESSAGE)
    assert {
        key: [layer.serializer.deserialize(value) for value in values]
        for key, values in redis.queues[0].items()
    } == {
        "asgispecific.abc.1!": [{**MESSAGE, CHANNEL_KEY: "specific.abc.1!x"}],
        "asgijobs": [MESSAGE],
    }
    await layer.close()


async def test_channel_is_full_at_its_own_capacity(redis: Redis) -> None:
    """send() raises ChannelFull."""
    layer = RedisChannelLayer(channel_capacity={"jobs*": 1})
    await layer.send("jobs", MESSAGE)
    with pytest.raises(ChannelFull, match=r"jobs") as caught:
        await layer.send("jobs", MESSAGE)
    assert caught.value.option == "capacity"
    await layer.send("others", MESSAGE)
    assert redis.capacities == [1, 1, 100]
    await layer.close()


async def test_plain_channels_use_several_hosts_in_turn(redis: Redis) -> None:
    """A message for a process goes to the host of its name."""
    layer = RedisChannelLayer(["redis://one", "redis://two"])
    for _ in range(4):
        await layer.send("jobs", MESSAGE)
    assert [len(queues["asgijobs"]) for queues in redis.queues] == [2, 2]
    names = [f"specific.{number}!" for number in range(40)]
    assert {shard_of(name, 2) for name in names} == {0, 1}
    for name in names:
        await layer.send(f"{name}x", MESSAGE)
        assert len(redis.queues[shard_of(name, 2)][f"asgi{name}"]) == 1
    await layer.close()


# Groups

PROCESSES = [f"specific.{number:012}.1!" for number in range(2)]
MEMBERS_OF_ROOM = [f"{name}{number:016}" for name in PROCESSES for number in range(2)]


@pytest.mark.usefixtures("more_formats")
@pytest.mark.parametrize(
    ("options", "steps"),
    [
        ({}, 1),
        ({"random_prefix_length": 0}, 1),
        ({"serializer_format": "json"}, 1),
        ({"serializer_format": "compact"}, 2),
        ({"serializer_format": "sorted"}, 2),
        ({"symmetric_encryption_keys": ["secret"]}, 2),
        ({"hosts": ["redis://one", "redis://two"]}, 2),
        ({"channel_capacity": {"*": 7}}, 1),
    ],
    ids=str,
)
async def test_each_process_gets_one_value_for_its_members(
    redis: Redis, options: dict[str, Any], steps: int
) -> None:
    """This takes one script if Redis can write the list of members itself."""
    layer = RedisChannelLayer(**options)
    for channel in MEMBERS_OF_ROOM:
        await layer.group_add("room", channel)
    redis.scripts.clear()
    await layer.group_send("room", MESSAGE)
    assert redis.scripts == (
        ["members"] + ["send"] * 2 if steps == 2 else ["group_send"]
    )
    for name in PROCESSES:
        [value] = redis.queues[shard_of(name, len(redis.queues))][f"asgi{name}"]
        assert layer.serializer.deserialize(value) == {
            **MESSAGE,
            CHANNEL_KEY: [member for member in MEMBERS_OF_ROOM if name in member],
        }
    await layer.group_discard("room", MEMBERS_OF_ROOM[0])
    [members] = [groups["asgi:group:room"] for groups in redis.groups if any(groups)]
    assert members == MEMBERS_OF_ROOM[1:]
    await layer.close()


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["open", "encrypted"])
async def test_full_process_misses_a_message_to_a_group(
    redis: Redis, keys: list[str] | None
) -> None:
    """The statistics count the loss; the capacity of channels has no effect."""
    layer = RedisChannelLayer(
        capacity=5,
        channel_capacity={f"{PROCESSES[0]}*": 5},
        process_capacity=1,
        symmetric_encryption_keys=keys,
    )
    for channel in MEMBERS_OF_ROOM[:2]:
        await layer.group_add("room", channel)
    for _ in range(3):
        await layer.group_send("room", MESSAGE)
    assert len(redis.queues[0][f"asgi{PROCESSES[0]}"]) == 1
    assert layer.statistics()["dropped"] == 2
    await layer.close()


@pytest.mark.parametrize("options", [{}, {"channel_capacity": {"x": 1}}], ids=str)
async def test_full_processes_are_logged_with_the_group(
    redis: Redis, caplog: pytest.LogCaptureFixture, options: dict[str, Any]
) -> None:
    """Counts are exact, even for messages that are sent at the same time."""
    layer = RedisChannelLayer(process_capacity=1, **options)
    for channel in MEMBERS_OF_ROOM:
        await layer.group_add("room", channel)
    await asyncio.gather(*[layer.group_send("room", MESSAGE) for _ in range(5)])
    assert layer.statistics()["dropped"] == 8
    assert (
        f"queue '{PROCESSES[0]}' is full, so a message to group 'room'"
        in (caplog.messages[0])
    )
    await layer.close()


async def test_members_that_are_not_ascii_are_left_out(redis: Redis) -> None:
    """Other programs can have added them."""
    layer = RedisChannelLayer(symmetric_encryption_keys=["secret"])
    await layer.group_add("room", MEMBERS_OF_ROOM[0])
    redis.groups[0]["asgi:group:room"].append(f"{PROCESSES[0]}\u00e9")
    await layer.group_send("room", MESSAGE)
    [value] = redis.queues[0][f"asgi{PROCESSES[0]}"]
    assert {*layer.deserialize(value)[CHANNEL_KEY]} == {MEMBERS_OF_ROOM[0]}
    await layer.close()


@pytest.mark.parametrize("keys", [None, ["secret"]], ids=["open", "encrypted"])
@pytest.mark.parametrize("own", [False, True], ids=["same", "own"])
async def test_plain_members_have_their_capacity_and_processes_theirs(
    redis: Redis, keys: list[str] | None, own: bool
) -> None:
    """Plain channels with their own capacity take one more step."""
    layer = RedisChannelLayer(
        capacity=3,
        channel_capacity={"jobs": 1, "specific*": 2} if own else None,
        process_capacity=4,
        symmetric_encryption_keys=keys,
    )
    members = ["jobs", "mails", *MEMBERS_OF_ROOM]
    for member in members:
        await layer.group_add("room", member)
    await layer.group_send("room", MESSAGE)
    sent = {
        key.removeprefix("asgi"): layer.deserialize(value)[CHANNEL_KEY]
        for key, [value] in redis.queues[0].items()
    }
    assert sent == {
        "jobs": ["jobs"],
        "mails": ["mails"],
        **{name: [each for each in members if name in each] for name in PROCESSES},
    }
    assert sorted(redis.capacities) == ([1, 3, 4, 4] if own else [3, 3, 4, 4])
    await layer.group_send("room", MESSAGE)
    assert layer.statistics()["dropped"] == own
    await layer.close()


@pytest.mark.parametrize("most", [0, -1, 1.5, "5", True])
def test_process_capacity_is_a_positive_int(most: Any) -> None:
    """The error names the option."""
    assert RedisChannelLayer().process_capacity == 10_000
    with pytest.raises((TypeError, ValueError), match="process_capacity"):
        RedisChannelLayer(process_capacity=most)


async def test_full_process_is_named_as_such(redis: Redis) -> None:
    """send() raises ChannelFull, which says that the limit is not the channel's."""
    layer = RedisChannelLayer(capacity=1, process_capacity=2)
    for number in range(2):
        await layer.send(MEMBERS_OF_ROOM[number], MESSAGE)
    with pytest.raises(ChannelFull, match=r"process of .*process_capacity") as caught:
        await layer.send(MEMBERS_OF_ROOM[0], MESSAGE)
    assert caught.value.option == "process_capacity"
    assert caught.value.channel == MEMBERS_OF_ROOM[0]
    assert redis.capacities == [2, 2, 2]
    await layer.close()


async def test_own_channels_leave_their_groups_on_close(
    layer: RedisChannelLayer, redis: Redis
) -> None:
    """Members from other processes stay."""
    channel = await layer.new_channel()
    await layer.group_add("room", channel)
    await layer.group_add("room", MEMBERS_OF_ROOM[0])
    assert layer.statistics()["groups"] == 1
    await layer.close()
    assert redis.groups[0]["asgi:group:room"] == [MEMBERS_OF_ROOM[0]]


# Dead letters


@pytest.mark.parametrize("hosts", [1, 2])
async def test_dead_letters_are_returned_and_put_back(redis: Redis, hosts: int) -> None:
    """They are collected from all hosts."""
    layer = RedisChannelLayer([("localhost", 6379)] * hosts)
    assert await layer.dead_letters("jobs") == []
    for number in range(3):
        shard = redis.queues[number % hosts]
        value = layer.serializer.serialize({"type": "test", "number": number})
        shard["asgi:deadletters:{asgijobs}"].append(value)
    letters = await layer.dead_letters("jobs")
    assert sorted(letter["number"] for letter in letters) == [0, 1, 2]
    assert len(await layer.dead_letters("jobs", limit=1)) == hosts
    assert await layer.requeue_dead_letters("jobs") == 3
    assert await layer.dead_letters("jobs") == []
    assert sum(len(shard["asgijobs"]) for shard in redis.queues) == 3
    await layer.close()


async def test_dead_letters_that_cannot_be_decoded_are_logged(
    redis: Redis, caplog: pytest.LogCaptureFixture
) -> None:
    """The others are returned without the channels that the layer adds."""
    layer = RedisChannelLayer()
    assert await layer.dead_letters("jobs") == []
    message = {"type": "test", "__asgi_channel__": ["jobs"]}
    value = layer.serializer.serialize(message)
    redis.queues[0]["asgi:deadletters:{asgijobs}"] = [b"nonsense", value]
    assert await layer.dead_letters("jobs") == [{"type": "test"}]
    [record] = caplog.records
    assert "a dead letter of channel 'jobs' cannot be decoded" in record.getMessage()
    await layer.close()


@pytest.mark.parametrize("most", [0, -1, 1.5, "5", True])
def test_max_deliveries_is_a_positive_int(most: Any) -> None:
    """The error names the option."""
    with pytest.raises((TypeError, ValueError), match="max_deliveries"):
        RedisChannelLayer(max_deliveries=most)


def test_number_of_deliveries_can_be_unlimited() -> None:
    """The default is five."""
    assert RedisChannelLayer(max_deliveries=None).max_deliveries is None
    assert RedisChannelLayer().max_deliveries == 5
