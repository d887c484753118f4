"""The common parts of both Redis layers: options, and what the layers report."""

import importlib
import math
import pickle
import re
import sys
from datetime import date
from typing import Any

import pytest

from fast_channels import layers
from fast_channels.exceptions import SerializerDoesNotExist, UndecodableMessage
from fast_channels.layers.redis import RedisChannelLayer, RedisPubSubChannelLayer
from fast_channels.layers.serializers import (
    CHANNEL_KEY,
    JSONSerializer,
    MsgPackSerializer,
    registry,
)

SECRETS = ["hunter2", "sesame", "key-of-keys"]


def test_options_have_the_defaults_of_channels_redis() -> None:
    """They are attributes of the layer."""
    layer = RedisChannelLayer()
    assert (layer.prefix, layer.expiry, layer.group_expiry) == ("asgi", 60, 86400)
    assert (layer.capacity, layer.channel_capacity) == (100, [])
    assert [str(host) for host in layer.hosts] == ["redis://localhost:6379/0"]
    assert isinstance(layer.serializer, MsgPackSerializer)
    assert layer.serializer.random_prefix_length == 12
    assert layer.serializer.crypter is None


def test_options_can_be_given_by_position() -> None:
    """The order is that of channels_redis."""
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
        ({"expiry": math.inf}, ValueError, "expiry must be finite, not inf"),
        ({"group_expiry": -1}, ValueError, "group_expiry must be positive, not -1"),
        ({"group_expiry": math.inf}, ValueError, "group_expiry must be finite"),
        ({"group_expiry": None}, TypeError, "group_expiry must be a number"),
        ({"capacity": 0}, ValueError, "capacity must be at least 1, not 0"),
        ({"channel_capacity": ["a"]}, TypeError, "channel_capacity must be a dict"),
        ({"hosts": "redis://one"}, TypeError, "hosts must be a list"),
        ({"hosts": []}, ValueError, "hosts must not be empty"),
        ({"symmetric_encryption_keys": "s"}, TypeError, "must be a list of str"),
        ({"random_prefix_length": "12"}, TypeError, "must be an int, not '12'"),
        ({"serializer_format": "xml"}, SerializerDoesNotExist, "the format 'xml'"),
    ],
    ids=str,
)
def test_invalid_options_are_refused(
    options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The error names the option and the problem with its value."""
    with pytest.raises(error, match=re.escape(message)):
        RedisChannelLayer(**options)


@pytest.mark.parametrize("layer_class", [RedisChannelLayer, RedisPubSubChannelLayer])
def test_reports_have_no_secrets(
    layer_class: type[RedisChannelLayer] | type[RedisPubSubChannelLayer],
) -> None:
    """Neither the repr nor the statistics show a password or a key."""
    layer = layer_class(
        ["redis://me:hunter2@one", {"host": "two", "password": "sesame"}],
        symmetric_encryption_keys=["key-of-keys"],
    )
    report = f"{layer!r} {layer.statistics()}"
    assert "redis://me:***@one:6379/0" in report
    assert not any(secret in report for secret in SECRETS)


def test_repr_shows_the_hosts_and_what_the_layer_holds() -> None:
    """Passwords are hidden."""
    layer = RedisChannelLayer(["redis://me:hunter2@one", ("two", 1)], prefix="p")
    layer.counters.dropped = 3
    layer.mailboxes.put("x", dict, math.inf)
    assert repr(layer) == (
        "<RedisChannelLayer [redis://me:***@one:6379/0, redis://two:1/0, prefix 'p', "
        "1 channels, 0 groups, 1 messages waiting, 3 dropped]>"
    )


@pytest.mark.parametrize("layer_class", [RedisChannelLayer, RedisPubSubChannelLayer])
def test_mailbox_has_the_capacity_of_its_channel(
    layer_class: type[RedisChannelLayer] | type[RedisPubSubChannelLayer],
) -> None:
    """The number of hosts makes no difference."""
    layer = layer_class(
        ["redis://one", "redis://two"], capacity=2, channel_capacity={"y": 3}
    )
    put = [
        [layer.mailboxes.put(name, dict, math.inf) for _ in range(4)] for name in "xy"
    ]
    assert put == [[True, True, False, False], [True, True, True, False]]


def nested(depth: int) -> list[Any]:
    """Return nested lists that give a message of them the chosen depth."""
    value: list[Any] = []
    for _ in range(depth - 2):
        value = [value]
    return value


class Pickling:
    """An application's serializer, which accepts more types than the package's."""

    def __init__(self, **options: object) -> None:
        self.options = options

    def serialize(self, message: object) -> bytes:
        """Encode a message."""
        return pickle.dumps(message)

    def deserialize(self, data: bytes) -> object:
        """Decode a message."""
        return pickle.loads(data)  # noqa: S301 # the test wrote it


@pytest.fixture
def pickling(monkeypatch: pytest.MonkeyPatch) -> RedisChannelLayer:
    """Give a test a layer with a serializer that shares no class with ours."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))  # pyright: ignore[reportPrivateUsage] # the registry has no way to remove one
    registry.register_serializer("pickle", Pickling)
    return RedisChannelLayer(
        serializer_format="pickle", symmetric_encryption_keys=["secret"]
    )


def test_any_class_with_both_methods_is_a_serializer(
    pickling: RedisChannelLayer,
) -> None:
    """It receives the options, and decides which types it accepts."""
    assert isinstance(pickling.serializer, Pickling)
    assert pickling.serializer.options == {
        "symmetric_encryption_keys": ["secret"],
        "random_prefix_length": 12,
        "expiry": 60,
    }
    message = {"type": "a", "when": date(2020, 2, 29), "deep": nested(100)}
    pickling.require_valid_message(message)
    assert pickling.deserialize(pickling.serialize(message)) == message


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ({"type": "a", "deep": nested(101)}, r"more than 100 levels deep"),
        ({1: 2}, r"keys of a message must be str"),
        ("text", r"must be a dict"),
        ({CHANNEL_KEY: "a"}, r"must not have the key"),
    ],
)
def test_layer_decides_on_the_shape_of_messages(
    pickling: RedisChannelLayer, message: Any, error: str
) -> None:
    """No serializer is given a message of another shape."""
    for layer in (pickling, RedisChannelLayer()):
        with pytest.raises((TypeError, ValueError), match=error):
            layer.require_valid_message(message)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"garbage", r"Pickling cannot decode these 7 bytes: UnpicklingError: "),
        (pickle.dumps([1]), r"a message must be a dict; these \d+ bytes are a list"),
        (pickle.dumps({"deep": nested(101)}), r"nested more than 100 levels deep"),
    ],
)
def test_bytes_that_a_serializer_refuses_are_undecodable(
    pickling: RedisChannelLayer, data: bytes, error: str
) -> None:
    """Its result is too, unless it is a dict that is not nested too deeply."""
    with pytest.raises(UndecodableMessage, match=error):
        pickling.deserialize(data)


@pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
@pytest.mark.parametrize("depth", [101, 500, 5000])
def test_message_that_is_nested_too_deep_is_undecodable(
    serializer_format: str, depth: int
) -> None:
    """Decoders raise no other error, at any depth."""
    layer = RedisChannelLayer(
        serializer_format=serializer_format, random_prefix_length=0
    )
    if serializer_format == "json":
        data = b'{"a": ' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"
    else:
        data = b"\x81\xa1a" + b"\x91" * (depth - 2) + b"\x90"
    with pytest.raises(UndecodableMessage):
        layer.deserialize(data)
    assert layer.deserialize(layer.serialize({"a": nested(100)})) == {"a": nested(100)}


def test_error_of_the_format_names_the_place() -> None:
    """It names nothing that the layer adds to a message."""
    layer = RedisChannelLayer(serializer_format="json")
    with pytest.raises(TypeError, match=r"message\['a'\] is of type bytes") as caught:
        layer.serialize({"a": b"b", CHANNEL_KEY: []})
    assert CHANNEL_KEY not in str(caught.value)


def test_package_loads_the_layers_when_they_are_used() -> None:
    """No other modules are loaded."""
    assert layers.RedisChannelLayer is RedisChannelLayer
    with pytest.raises(
        AttributeError, match=r"'fast_channels.layers' has no attribute 'KafkaLayer'"
    ):
        _ = layers.KafkaLayer


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ("msgpack", r"need msgpack, .* pip install 'fast-channels\[redis\]'"),
        ("fast_channels.layers.redis.queue.layer", r"^import of fast_channels\."),
    ],
)
def test_missing_library_is_named_with_its_extra(
    monkeypatch: pytest.MonkeyPatch, missing: str, message: str
) -> None:
    """Other import errors are not hidden."""
    for name in [*sys.modules]:
        if name.startswith(("fast_channels.layers.redis", "fast_channels.layers.ser")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ImportError, match=message) as caught:
        importlib.import_module("fast_channels.layers.redis")
    assert caught.value.name == missing
