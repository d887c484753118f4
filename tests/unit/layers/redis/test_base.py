"""What both Redis layers share: their options, and how they report on themselves."""

import importlib
import math
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest

from fast_channels import layers
from fast_channels.layers.redis import RedisChannelLayer
from fast_channels.layers.redis.base import RedisBaseLayer, complain
from fast_channels.layers.redis.serializers import (
    JSONSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
)

SECRETS = ["hunter2", "sesame", "key-of-keys"]


class MyLayer(RedisBaseLayer):
    """A layer that has the options, and nothing else."""

    def __init__(self) -> None:
        super().__init__(
            None,
            "asgi",
            60,
            86400,
            100,
            None,
            None,
            12,
            "msgpack",
            age_limit=None,
            sentinels=None,
            service_name=None,
            sentinel_kwargs=None,
            connection_kwargs=None,
        )


def test_attributes() -> None:
    """The options are attributes, with the values that they have in channels_redis."""
    layer = RedisChannelLayer()
    assert (layer.prefix, layer.expiry, layer.group_expiry) == ("asgi", 60, 86400)
    assert (layer.capacity, layer.channel_capacity) == (100, [])
    assert [str(host) for host in layer.hosts] == ["redis://localhost:6379/0"]
    assert isinstance(layer.serializer, MsgPackSerializer)
    assert layer.serializer.random_prefix_length == 12
    assert layer.serializer.crypter is None


def test_order_of_arguments() -> None:
    """Arguments may be given by position, in the order of channels_redis."""
    layer = RedisChannelLayer(
        ["redis://one"], "p", 5, 50, 7, {"a*": 3}, ["secret"], 4, "json"
    )
    assert [str(host) for host in layer.hosts] == ["redis://one:6379/0"]
    assert (layer.prefix, layer.expiry, layer.group_expiry) == ("p", 5, 50)
    assert (layer.capacity, layer.get_capacity("abc")) == (7, 3)
    assert isinstance(layer.serializer, JSONSerializer)
    assert layer.serializer.random_prefix_length == 4
    assert layer.serializer.crypter is not None


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"prefix": ""}, TypeError, "prefix must be a str that is not empty, not ''"),
        ({"prefix": None}, TypeError, "prefix must be a str that is not empty"),
        ({"prefix": b"asgi"}, TypeError, "prefix must be a str that is not empty"),
        ({"expiry": 0}, ValueError, "expiry must be positive, not 0"),
        ({"expiry": math.inf}, ValueError, "expiry must be finite, not inf"),
        ({"expiry": math.nan}, ValueError, "expiry must be positive, not nan"),
        ({"expiry": "60"}, TypeError, "expiry must be a number, not '60'"),
        ({"group_expiry": -1}, ValueError, "group_expiry must be positive, not -1"),
        ({"group_expiry": math.inf}, ValueError, "group_expiry must be finite"),
        ({"group_expiry": None}, TypeError, "group_expiry must be a number"),
        ({"capacity": 0}, ValueError, "capacity must be at least 1, not 0"),
        ({"capacity": 1.5}, TypeError, "capacity must be an int, not 1.5"),
        ({"channel_capacity": ["a"]}, TypeError, "channel_capacity must be a dict"),
        ({"hosts": "redis://one"}, TypeError, "hosts must be a list"),
        ({"hosts": []}, ValueError, "hosts must not be empty"),
        ({"symmetric_encryption_keys": "s"}, TypeError, "must be a list of str"),
        ({"random_prefix_length": "12"}, TypeError, "must be an int, not '12'"),
        ({"serializer_format": "xml"}, SerializerDoesNotExist, "the format 'xml'"),
    ],
    ids=str,
)
def test_refused_options(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error names the option, and what is wrong with its value."""
    with pytest.raises(error, match=re.escape(message)):
        RedisChannelLayer(**options)


@pytest.mark.parametrize("report", [repr, RedisChannelLayer.statistics])
def test_no_secrets(report: Callable[[RedisChannelLayer], object]) -> None:
    """What a layer reports on itself shows no password, and no key."""
    layer = RedisChannelLayer(
        ["redis://me:hunter2@one", {"host": "two", "password": "sesame"}],
        symmetric_encryption_keys=["key-of-keys"],
    )
    assert not any(secret in str(report(layer)) for secret in SECRETS)


def test_repr() -> None:
    """The repr says where Redis is, and what the layer holds."""
    layer = RedisChannelLayer(["redis://me:hunter2@one", ("two", 1)], prefix="p")
    layer.counters.dropped = 3
    layer.mailboxes.put("x", dict, math.inf)
    assert repr(layer) == (
        "<RedisChannelLayer [redis://me:***@one:6379/0, redis://two:1/0, prefix 'p', "
        "1 channels, 0 groups, 1 messages waiting, 3 dropped]>"
    )


def test_room_for_each_host() -> None:
    """A mailbox has room for as much as several hosts may hold for it."""
    layer = RedisChannelLayer(["redis://one", "redis://two"], capacity=2)
    assert [layer.mailboxes.put("x", dict, math.inf) for _ in range(5)] == [
        *[True] * 4,
        False,
    ]


def test_complaints(caplog: pytest.LogCaptureFixture) -> None:
    """Of messages that nobody can get the 1st, 2nd, 4th and 8th are logged."""
    layer = RedisChannelLayer(prefix="p:")
    for number in range(1, 10):
        complain(layer, "jobs", f"reason {number}")
    assert layer.statistics()["undecodable"] == 9
    assert [record.getMessage() for record in caplog.records] == [
        f"a message that came through 'jobs' of prefix 'p:' was dropped, {number} so "
        f"far: reason {number}"
        for number in (1, 2, 4, 8)
    ]


def test_layers_of_the_package() -> None:
    """The package has the layers for Redis when they are asked for, and no others."""
    assert layers.RedisChannelLayer is RedisChannelLayer
    with pytest.raises(
        AttributeError, match=r"'fast_channels.layers' has no attribute 'KafkaLayer'"
    ):
        _ = layers.KafkaLayer


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("msgpack", r"need msgpack, .* pip install 'fast-channels\[redis\]'"),
        ("fast_channels.layers.redis.queue", r"^import of fast_channels\."),
    ],
)
def test_what_cannot_be_imported(
    monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    """The error names the extra if a library is missing, and nothing else is hidden."""
    for name in [*sys.modules]:
        if name.startswith("fast_channels.layers.redis"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message) as caught:
        importlib.import_module("fast_channels.layers.redis")
    assert caught.value.name == missing
