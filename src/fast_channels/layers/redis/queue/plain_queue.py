"""A reader's view of a plain channel, which has readers in many processes.

Redis holds a message that a reader has taken, in the name of that reader, until the
work is done::

    in the queue --> held --> acknowledged: gone
         ^            | |
         +------------+ +--> its process died: recovered --> held by another
          given back                |
                                    +--> too many processes died: a dead letter
"""

import math
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from fast_channels.layers.redis.scripts import RECOVER, TAKE

from .batches import Call, Outcome, Popped, Queue, Terms

__all__ = ["PlainQueue"]

_DEATHS_KEPT = 86_400.0
"""Seconds to keep the number of receivers that died with a message."""
_DEAD_LETTERS_KEPT, _MOST_DEAD_LETTERS = 7 * 86_400.0, 1000
"""Seconds to keep the dead letters of a channel, and their maximum number."""


class PlainQueue(Queue):
    """The queue of a plain channel, shared with readers in other processes.

    Args:
        name: The channel.
        terms: Options that all queues share.
        waiting: Returns how many messages of a channel wait in this process.
        wake: Called when a request should be sent soon.
    """

    def __init__(
        self,
        name: str,
        terms: Terms,
        waiting: Callable[[str], int],
        wake: Callable[[], None],
    ) -> None:
        super().__init__(name, terms)
        self.dead: list[str] = []
        """Dead receivers with messages to recover."""
        self.recovered: int = 0
        """Number of messages that the last request has recovered."""
        self.dead_letters: int = 0
        """Number of messages that the last request has made dead letters."""
        self._waiting = waiting
        self._wake = wake
        # The messages that Redis holds for this reader, according to its replies.
        self._taken: dict[bytes, Popped] = {}
        # What became of messages, and those of which the request under way tells.
        self._settled: dict[bytes, Outcome] = {}
        self._settling: list[bytes] = []
        # Whether to send them soon.
        self._hurries = False
        # How many messages to take at least, and when some were taken last.
        self._ahead = 1
        self._taken_at = -math.inf

    @property
    @override
    def idle(self) -> bool:
        return not (self.readers or self._taken or self.dead or self.asked)

    @override
    def _is_due(self) -> bool:
        if self.asked or self.dead or (self.checks and self._taken):
            return True
        # While messages wait in this process, readers need no others.
        return self._hurries or (not self._waiting(self.name) and super()._is_due())

    @override
    def ask(self, now: float) -> list[Call]:
        count = 0
        if self.readers and not self._waiting(self.name):
            terms = self._terms
            quick = now - self._taken_at < terms.quick * self._ahead
            self._ahead = min(2 * self._ahead, terms.batch) if quick else 1
            count = min(max(self.readers, self._ahead), terms.batch)
        calls = [self._recover(receiver) for receiver in self.dead]
        calls.append(self._take(count, now))
        if count:
            self._sent()
        self.asked = True
        self.checks = self._hurries = False
        return calls

    @override
    def leave(self) -> Call:
        return self._take(-1, 0)

    @override
    def fail(self) -> None:
        super().fail()
        self._hurries = bool(self._settled)

    @override
    def accept(self, replies: list[Any], waiting: int, now: float) -> list[Popped]:
        *recovered, (_, differs, more, dead, messages) = replies
        self.recovered = sum(reply[0] for reply in recovered)
        self.dead_letters = sum(reply[1] for reply in recovered)
        self.dead = [receiver.decode() for receiver in dead]
        self._forget_settled()
        may_repeat = self._may_repeat
        self._received(waiting, now)
        if messages:
            self._taken_at = now
        pairs = dict(zip(messages[::2], messages[1::2], strict=True))
        known = self._taken
        if differs == b"1":
            # Other receivers have recovered the missing messages.
            known = {value: known[value] for value in pairs if value in known}
            self._taken = known.copy()
        if more == b"1" or differs == b"1":
            self.changed = True
        taken: list[Popped] = []
        for value, score in pairs.items():
            if differs == b"1" and value in known:
                continue
            popped = self._taken[value] = Popped(self, value, score, math.inf)
            # What is known of an equal one that was here before is not about this one.
            self._settled.pop(value, None)
            if may_repeat and self._recent.has(self.key, value, score):
                popped.acknowledge()
            else:
                taken.append(popped)
        return taken

    @override
    def settle(self, popped: Popped, outcome: Outcome, *, soon: bool) -> None:
        if self._taken.get(popped.value) is not popped:
            # Another process has recovered it.
            return
        if popped.value in self._settled:
            return
        self._settled[popped.value] = outcome
        if soon:
            self._hurries = True
            self._wake()

    def _forget_settled(self) -> None:
        """Forget the messages of which Redis has just been told."""
        for value in self._settling:
            popped = self._taken.pop(value, None)
            outcome = self._settled.pop(value, None)
            if popped is not None and outcome is Outcome.ACKNOWLEDGED:
                self._recent.add(self.key, value, popped.score)

    def _take(self, count: int, now: float) -> Call:
        terms = self._terms
        done, unread, back = (
            [value for value, each in self._settled.items() if each is outcome]
            for outcome in Outcome
        )
        self._settling = [*done, *unread, *back]
        return (
            TAKE,
            [
                self.key,
                self._held,
                terms.key("receivers", self.name),
                terms.key("suspects", self.name),
                terms.key("deaths", self.name),
            ],
            [
                terms.receiver,
                terms.lease,
                self._kept,
                terms.expiry,
                self._drops_old(now),
                count,
                terms.batch_bytes,
                len(self._taken) - len(self._settling),
                len(done),
                len(unread),
                *self._settling,
            ],
        )

    def _recover(self, receiver: str) -> Call:
        terms = self._terms
        return (
            RECOVER,
            [
                self.key,
                terms.key("receivers", self.name),
                terms.key("inflight", self.name, receiver),
                terms.key("suspects", self.name),
                terms.key("deaths", self.name),
                terms.key("deadletters", self.name),
            ],
            [
                receiver,
                terms.expiry,
                math.ceil(_DEATHS_KEPT * 1000),
                terms.max_deliveries,
                math.ceil(_DEAD_LETTERS_KEPT * 1000),
                _MOST_DEAD_LETTERS,
            ],
        )
