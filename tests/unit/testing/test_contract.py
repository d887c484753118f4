"""The contract finds a layer's faults, in a separate pytest."""

import asyncio
import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

from fast_channels.testing.contract.base import refusal

_ROOT = Path(__file__).parents[3]

SAMPLE = """
import asyncio

import pytest

from examples.own_layer import QueueLayer
from fast_channels.exceptions import ChannelFull
from fast_channels.testing.contract import LayerContract


class Contract(LayerContract):
    layer_class = QueueLayer
    carries_bytes = False
    drops_expired_messages = False
    serves_several_event_loops = False
    can_be_flushed = False
    keeps_statistics = False

    @pytest.fixture
    def layers(self, options):
        options = {"capacity": 100, "channel_capacity": None, **options}
        options.pop("expiry", None)
        layer = self.layer_class(**options)
        return layer, layer


class TestSharing(Contract):
    class layer_class(QueueLayer):
        def __init__(self, **options):
            super().__init__(**options)
            self.received = {}

        async def receive(self, channel):
            message = await super().receive(channel)
            return self.received.setdefault(repr(message), message)


class TestLosing(Contract):
    class layer_class(QueueLayer):
        async def receive(self, channel):
            message = await super().receive(channel)
            await asyncio.sleep(0)
            return message


class TestBoundless(Contract):
    class layer_class(QueueLayer):
        def get_capacity(self, channel):
            return 1000


class TestRaising(Contract):
    class layer_class(QueueLayer):
        async def group_send(self, group, message):
            await super().group_send(group, message)
            for channel in self.groups[group]:
                if self.queues[channel].qsize() >= self.get_capacity(channel):
                    raise ChannelFull(channel)


class TestWrongFlags(Contract):
    carries_bytes = True
    drops_expired_messages = True
    can_be_flushed = True
    keeps_statistics = True
"""

INI = "[pytest]\nasyncio_default_fixture_loop_scope = function"

# The tests that each of these layers fails.
FAULTS = {
    "TestSharing": {"test_received_message_belongs_to_the_receiver"},
    "TestLosing": {"test_cancelled_receivers_lose_nothing"},
    "TestBoundless": {
        "test_channels_can_have_their_own_capacity",
        "test_full_channel_takes_no_more",
        "test_full_member_misses_its_copy",
        "test_listener_is_bounded",
        "test_receiving_makes_room",
    },
    "TestRaising": {"test_full_member_misses_its_copy", "test_listener_is_bounded"},
    "TestWrongFlags": {
        "test_expired_message_is_dropped",
        "test_expired_messages_make_room",
        "test_extensions",
        "test_flush_drops_messages_and_groups",
        "test_flush_empties_a_layer",
        "test_flush_leaves_receivers_waiting",
        "test_member_whose_message_expired_stays_in_its_group",
        "test_messages_arrive_as_they_were_sent",
        "test_statistics",
        "test_values_arrive_as_builtin_types",
    },
}


async def test_call_that_is_accepted_has_no_refusal() -> None:
    """refusal() returns nothing that an expected error would match."""
    assert await refusal(asyncio.sleep(0)) == ""


def test_each_fault_is_found(tmp_path: Path) -> None:
    """A layer fails the tests of its faults, and the report shows values."""
    path = tmp_path / "test_sample.py"
    path.write_text(SAMPLE)
    (tmp_path / "pytest.ini").write_text(INI)
    command = ["pytest", "-q", "-rf", "-Werror", "-pno:cacheprovider", str(path)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    found = defaultdict[str, set[str]](set)
    for name, test in re.findall(
        r"^FAILED .*::(\w+)::(\w+)", done.stdout, re.MULTILINE
    ):
        found[name].add(test)
    assert found == FAULTS, done.stdout
    assert "{'a': 'changed'} != {'a': 1}" in done.stdout
