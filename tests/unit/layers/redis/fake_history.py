"""A fake shard that holds the history of one group; tests decide what arrives."""

import asyncio
from dataclasses import replace
from typing import Any, cast

from fast_channels.exceptions import RedisUnavailable
from fast_channels.layers.groups import Groups
from fast_channels.layers.history import GroupMessage, History, Resumed
from fast_channels.layers.mailboxes import Mailboxes
from fast_channels.layers.redis.group_log import LogTiming
from fast_channels.layers.redis.logs import GroupLogs, Places
from fast_channels.layers.redis.scripts import HISTORY_READ
from fast_channels.layers.redis.shards import Shards
from fast_channels.layers.serializers import UndecodableMessage

from .fake_hosts import as_shard

__all__ = ["EPOCH", "NEVER", "OTHER", "FakeHistory", "Process"]

EPOCH, OTHER = "0123abcd", "9876abcd"
NEVER = 3600.0


class FakeHistory:
    """Stands in for the command connection to a shard.

    It does not check what it is asked for as Redis does: tests choose the epoch.
    """

    def __init__(self) -> None:
        self.epoch = EPOCH
        self.last = 0
        self.entries: dict[int, bytes] = {}
        # The offsets after which messages were read.
        self.reads: list[int] = []
        # What each read raises before it succeeds.
        self.trouble: list[Exception] = []
        # Commands take effect at once; their replies wait for this.
        self.answers = asyncio.Event()
        self.answers.set()

    def send(self, count: int = 1) -> list[tuple[str, dict[str, Any]]]:
        """Store messages; return what a process hears of them."""
        sent: list[tuple[str, dict[str, Any]]] = []
        for _ in range(count):
            self.last += 1
            self.entries[self.last] = b"%d" % self.last
            sent.append((f"{self.epoch}.{self.last}", {"n": self.last}))
        return sent

    def deadline(self) -> float:
        return asyncio.get_running_loop().time() + 5

    async def execute(self, *command: Any, deadline: float | None = None) -> Any:
        del deadline
        name, sha, keys, *rest = command
        assert (name, sha, keys) == ("EVALSHA", HISTORY_READ.sha, 2)
        assert rest[:2] == ["asgi:history:{room}", "asgi:position:{room}"]
        known, _, after, count, most, _, _ = rest[2:]
        if self.trouble:
            raise self.trouble.pop(0)
        start = min(self.last, self.last if after == "" else after, self.last - count)
        if known not in {"", self.epoch}:
            start = self.last - most
        start = max(start, self.last - most, 0)
        self.reads.append(start)
        reply = [
            self.epoch.encode(),
            b"%d" % self.last,
            b"%d" % start,
            [
                (b"%d-0" % offset, [b"v", value])
                for offset, value in self.entries.items()
                if offset > start
            ],
        ]
        await self.answers.wait()
        return reply


class Process:
    """The logs of a process with members in the group."""

    def __init__(
        self,
        redis: FakeHistory,
        *,
        timing: LogTiming,
        history: History,
        capacity: int = 1000,
    ) -> None:
        self.groups = Groups()
        self.mailboxes = Mailboxes(lambda _: capacity, 60)
        self.counted: list[tuple[int, list[str]]] = []
        self.complaints: list[str] = []
        self.history: History | None = history
        shard = replace(as_shard(redis), timeout=0.2)
        self.shards = Shards([shard])
        self.shard = shard
        self.logs = GroupLogs(
            self.shards,
            expiry=60,
            group_of=self._group_of,
            places=self._places,
            decode=self._decode,
            count=lambda put, _: self.counted.append(put),
            complain=lambda name, problem: self.complaints.append(f"{name}: {problem}"),
            timing=timing,
        )
        self.groups.watch(self.logs.drop)

    async def join(self, channel: str) -> None:
        """Join the group as group_add() does."""
        self.groups.add("room", channel)
        await self.logs.opened("room")

    async def resume(
        self, channel: str, since: object = None, last: int | None = None
    ) -> Resumed:
        """Join the group as group_resume() does."""

        async def join() -> None:
            self.groups.add("room", channel)
            await asyncio.sleep(0)

        return await self.logs.resume(
            "room",
            channel,
            cast("str | None", since),
            last,
            join=join,
            is_member=channel in self.groups.by_channel,
        )

    def hear(self, *messages: tuple[str, dict[str, Any]]) -> None:
        """Let messages arrive."""
        for position, message in messages:
            assert self.logs.heard("room", position, message)

    def got(self, channel: str) -> list[Any]:
        """Return what a member got: numbers, and the positions before gaps."""
        mailbox = self.mailboxes.by_channel.get(channel)
        found: list[Any] = []
        while mailbox is not None and (each := mailbox.take()) is not None:
            if isinstance(each, GroupMessage):
                assert each.position.endswith(f".{each['n']}")
                found.append(each["n"])
            else:
                found.append(each["position"])
        return found

    def _group_of(self, name: str) -> tuple[str, History] | None:
        return None if self.history is None else (name.upper(), self.history)

    def _places(self, name: str) -> Places:
        return [(self.mailboxes, self.groups.by_group.get(name, ()))]

    def _decode(self, value: bytes) -> dict[str, Any]:
        if not value.isdigit():
            raise UndecodableMessage("no digits")
        return {"n": int(value)}


def unavailable() -> RedisUnavailable:
    return RedisUnavailable("gone")
