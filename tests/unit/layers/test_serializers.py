"""The serializers: formats, prefixes, encryption, and their registry."""

import functools
import os
import re
import sys
import time
from collections.abc import Mapping
from datetime import date
from typing import Any, cast

import pytest

from fast_channels.exceptions import SerializerDoesNotExist, UndecodableMessage
from fast_channels.layers.serializers import (
    BaseMessageSerializer,
    JSONSerializer,
    MissingSerializer,
    MsgPackSerializer,
    SerializersRegistry,
    decoder,
    registry,
)

FORMATS = pytest.mark.parametrize("serializer_format", ["msgpack", "json"])
SMALL: dict[str, Any] = {"a": True, "b": None, "c": {"d": []}}
TYPED = {"type": "a"}
RING: list[Any] = []
RING.append(RING)
DEEP: list[Any] = functools.reduce(lambda inner, _: [inner], range(100_000), RING[:0])


class Encoder:
    """A class with only half of a serializer."""

    def serialize(self, message: object) -> bytes:
        """Encode a message."""
        return repr(message).encode()


# Formats


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (SMALL, "83 a161 c3 a162 c0 a163 81 a164 90"),
        (
            {
                "type": "a",
                "n": [1, 2.5, None, True, b"\0\xff"],
                "u": "\u00e9\u2603",
                "big": 2**63,
                "neg": -(2**63),
                "t": (1, 2),
                "d": {"x": {}},
            },
            (
                "87a474797065a161a16e9501cb4004000000000000c0c3c40200ffa175a5c3a9e29883"
                "a3626967cf8000000000000000a36e6567d38000000000000000a174920102a16481a17880"
            ),
        ),
    ],
)
def test_msgpack_matches_django(message: dict[str, Any], data: str) -> None:
    """The bytes are those of channels_redis 4.3."""
    assert MsgPackSerializer().serialize(message) == bytes.fromhex(data)


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (SMALL, b'{"a": true, "b": null, "c": {"d": []}}'),
        (
            {
                "n": [1, 2.5, None, True],
                "u": "\u00e9\u2603\U0001f600",
                "big": 2**80,
                "t": (1, 2),
                "huge": 1e300,
            },
            (
                b'{"n": [1, 2.5, null, true], "u": "\\u00e9\\u2603\\ud83d\\ude00", '
                b'"big": 1208925819614629174706176, "t": [1, 2], "huge": 1e+300}'
            ),
        ),
    ],
)
def test_json_matches_django(message: dict[str, Any], data: bytes) -> None:
    """The bytes are those of channels_redis 4.3."""
    assert JSONSerializer().serialize(message) == data


@FORMATS
@pytest.mark.parametrize("keys", [None, [], ["secret"]], ids=repr)
@pytest.mark.parametrize("length", [0, 12])
def test_message_survives_a_round_trip(
    serializer_format: str, keys: list[str] | None, length: int
) -> None:
    """Deserializing returns an equal message, with lists for tuples."""
    serializer = registry.get_serializer(serializer_format, keys, length, 60)
    message = {**SMALL, "text": "\u65e5\u672c\0", "numbers": (1, -2, 2.5, 2**63)}
    received = serializer.deserialize(serializer.serialize(message))
    assert received == {**message, "numbers": [1, -2, 2.5, 2**63]}


# Messages that cannot be sent


@pytest.mark.parametrize(
    ("serializer_format", "value", "reason"),
    [
        ("msgpack", date(2020, 2, 29), "can not serialize 'datetime.date' object"),
        ("json", date(2020, 2, 29), "Object of type date is not JSON serializable"),
        (
            "json",
            b"bytes",
            "message['value'] is of type bytes, which JSON does not carry",
        ),
        ("json", RING, "Circular reference detected"),
        ("json", DEEP, "maximum recursion depth exceeded"),
        ("msgpack", DEEP, "recursion limit exceeded"),
        ("msgpack", 2**64, ""),
        ("msgpack", "\ud800", "'utf-8' codec can't encode"),
    ],
    ids=["date", "JSON date", "JSON bytes", "ring", "JSON deep", "deep", "int", "str"],
)
def test_values_that_a_format_cannot_carry_are_refused(
    serializer_format: str, value: object, reason: str
) -> None:
    """The error says why a message is refused, with the format's error as its cause."""
    serializer = registry.get_serializer(serializer_format)
    error = f"this message cannot be sent, .* cannot encode it: .*{re.escape(reason)}"
    with pytest.raises(TypeError, match=rf"(?s){error}") as caught:
        serializer.serialize({"type": "a", "value": value})
    assert isinstance(caught.value.__cause__, Exception)


def test_error_does_not_grow_with_the_message() -> None:
    """The error does not show a huge message."""
    message = {"type": "a", "blob": b"x" * 10**6, "list": list(range(10**5))}
    with pytest.raises(TypeError, match=r"cannot be sent") as caught:
        JSONSerializer().serialize(message)
    assert len(str(caught.value)) < 1000


# Bytes that cannot be decoded


@pytest.mark.parametrize(
    ("serializer_format", "data"),
    [
        ("msgpack", b""),
        ("msgpack", b"\xc1"),
        ("msgpack", b"\x80\x80"),
        ("msgpack", b"\x81\x01\x02"),  # a map with an int as key
        ("msgpack", b"\x81\xa1a"),
        ("msgpack", b"\x81\xa1a\xdd\xff\xff\xff\xff"),  # claims 4 billion items
        ("msgpack", b"\x81\xa1a\xc6\xff\xff\xff\xff"),  # claims 4 GiB
        ("msgpack", b"\x81\xa1a" + b"\x91" * 10**6),  # a million lists deep
        ("json", b""),
        ("json", b'{"a": '),
        ("json", b'{"a": "\xff"}'),
        ("json", b"[" * 10**6),
    ],
    ids=lambda value: repr(value)[:30],
)
def test_bytes_that_are_not_a_message_are_undecodable(
    serializer_format: str, data: bytes
) -> None:
    """The cause of UndecodableMessage is the decoder's exception."""
    serializer = registry.get_serializer(serializer_format)
    error = rf"Serializer cannot decode these {len(data)} bytes: "
    with pytest.raises(UndecodableMessage, match=error) as caught:
        serializer.deserialize(data)
    assert isinstance(caught.value.__cause__, Exception)


@pytest.mark.parametrize(
    ("serializer_format", "data", "found"),
    [
        ("msgpack", b"\x01", "int"),
        ("json", b'["a"]', "list"),
        ("json", b"null", "None"),
    ],
)
def test_message_is_a_dict(serializer_format: str, data: bytes, found: str) -> None:
    """Bytes that decode to any other type are not a message."""
    serializer = registry.get_serializer(serializer_format)
    error = rf"a message must be a dict; these {len(data)} bytes are a {found}"
    with pytest.raises(UndecodableMessage, match=error):
        serializer.deserialize(data)


@pytest.mark.parametrize("data", [b"", b"short", b"a prefix and"])
def test_bytes_shorter_than_the_prefix_are_undecodable(data: bytes) -> None:
    """Bytes that end before a message begins are not a message."""
    with pytest.raises(UndecodableMessage, match=r"cannot decode these 0 bytes"):
        MsgPackSerializer(random_prefix_length=12).deserialize(data)


# Prefixes


@pytest.mark.parametrize("length", [1, 2, 7, 8, 9, 12, 13, 64])
def test_prefix_has_its_length_and_does_not_repeat(length: int) -> None:
    """Prefixes make equal messages differ, until all of that length have been used."""
    serializer = MsgPackSerializer(random_prefix_length=length)
    sent = [serializer.serialize(SMALL) for _ in range(256)]
    plain = MsgPackSerializer().serialize(SMALL)
    assert {data[length:] for data in sent} == {plain}
    assert len(set(sent)) == 256


@pytest.mark.parametrize("length", [0, -1])
def test_prefix_is_optional(length: int) -> None:
    """Without a length, no prefix is added or removed."""
    serializer = MsgPackSerializer(random_prefix_length=length)
    assert serializer.unique_prefix() == b""
    assert serializer.serialize({}) == b"\x80"
    assert serializer.deserialize(b"\x80") == {}


def test_prefix_is_not_encrypted() -> None:
    """The prefix can be removed without a key."""
    data = MsgPackSerializer(["secret"], 12).serialize(SMALL)
    assert MsgPackSerializer(["secret"]).deserialize(data[12:]) == SMALL


def test_prefixes_keep_the_order_of_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later prefixes of a process compare as larger in a sorted set."""
    monkeypatch.setattr(os, "urandom", lambda n: b"\x01" * n)  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] # a stand-in
    serializer = MsgPackSerializer(random_prefix_length=12)
    prefixes = [serializer.unique_prefix() for _ in range(1000)]
    assert prefixes == sorted(prefixes)


def test_two_processes_do_not_share_prefixes(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a fork, the child doesn't continue with its parent's prefixes."""
    serializer = MsgPackSerializer(random_prefix_length=12)
    before = serializer.unique_prefix()
    child = os.getpid() + 1
    monkeypatch.setattr(os, "getpid", lambda: child)
    after = [serializer.unique_prefix() for _ in range(2)]
    numbers = [int.from_bytes(prefix, "big") for prefix in (before, *after)]
    assert abs(numbers[1] - numbers[0]) > 2**32
    assert numbers[2] - numbers[1] == 1


@pytest.mark.parametrize("length", [None, "12", 1.5, True])
def test_length_of_the_prefix_is_an_int(length: Any) -> None:
    """The error names the given value."""
    error = rf"random_prefix_length must be an int, not {length!r}"
    with pytest.raises(TypeError, match=error):
        MsgPackSerializer(random_prefix_length=length)


# Encryption

TOKENS = [
    # Tokens of channels_redis 4.3 for TYPED at 1700000000 with these keys.
    (
        "secret",
        (
            b"gAAAAABlU_EAAAECAwQFBgcICQoLDA0ODzmvccDx1C0LowplaWwc307muoO3JMl4081ZfDKrX4-9"
            b"f2JaM7z5rSawGoDGww7Cig=="
        ),
    ),
    (
        b"caf\xc3\xa9\xff",
        (
            b"gAAAAABlU_EAAAECAwQFBgcICQoLDA0ODzYTwvMRVRFsco5F3Dn8LNIj1nMlVoUPe5wCWVfzGHtw"
            b"iAIEKwQQL1lL8vmnzb_gRw=="
        ),
    ),
]


@pytest.mark.parametrize(("key", "token"), TOKENS)
def test_encryption_matches_django(
    monkeypatch: pytest.MonkeyPatch, key: str | bytes, token: bytes
) -> None:
    """A message, a key and a time give the same token as with channels_redis 4.3."""
    monkeypatch.setattr(time, "time", lambda: 1700000000.0)
    monkeypatch.setattr(os, "urandom", lambda n: bytes(range(n)))  # pyright: ignore[reportUnknownLambdaType, reportUnknownArgumentType] # a stand-in
    serializer = MsgPackSerializer([key])
    assert serializer.serialize(TYPED) == token
    assert serializer.deserialize(token) == TYPED


def test_first_key_encrypts_and_each_decrypts() -> None:
    """To rotate keys, put the new one first, and remove the old one later."""
    old, both = JSONSerializer(["old"]), JSONSerializer(("new", b"old"))
    assert both.deserialize(old.serialize(SMALL)) == SMALL
    assert JSONSerializer(["new"]).deserialize(both.serialize(SMALL)) == SMALL
    with pytest.raises(UndecodableMessage, match=r"none of the symmetric_encryption_k"):
        old.deserialize(both.serialize(SMALL))


@pytest.mark.parametrize("data", [b"", b"\x80", b"{}", TOKENS[0][1][:-8]])
def test_message_that_is_not_encrypted_is_undecodable(data: bytes) -> None:
    """With keys, a plain or damaged message is undecodable."""
    error = rf"^these {len(data)} bytes cannot be decrypted: .*, or they are damaged$"
    with pytest.raises(UndecodableMessage, match=error):
        MsgPackSerializer(["secret"]).deserialize(data)


@pytest.mark.parametrize(
    ("expiry", "age", "decoded"),
    [
        (60, 70, True),
        (60, 71, False),
        (0.5, 11, True),
        (0.5, 12, False),
        (None, 10**6, True),
        (float("inf"), 10**6, True),
    ],
)
def test_encrypted_message_has_an_age_limit(
    monkeypatch: pytest.MonkeyPatch, expiry: float | None, age: int, decoded: bool
) -> None:
    """A message with an expiry is refused ten seconds after it has expired."""
    monkeypatch.setattr(time, "time", lambda: 1700000000.0 + age)
    serializer = MsgPackSerializer(["secret"], expiry=expiry)
    if decoded:
        assert serializer.deserialize(TOKENS[0][1]) == TYPED
        return
    with pytest.raises(UndecodableMessage, match=rf", or older than {age - 1} s$"):
        serializer.deserialize(TOKENS[0][1])


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        ("secret", r"must be a list of str or bytes, not str; put a single key into a"),
        (
            b"secret",
            r"must be a list of str or bytes, not bytes; put a single key into",
        ),
        (5, r"symmetric_encryption_keys must be a list of str or bytes, not int"),
        (
            ["secret", 5],
            r"each of symmetric_encryption_keys must be str or .*, not int",
        ),
        (["secret", None], r"each of symmetric_encryption_keys .*, not NoneType$"),
    ],
)
def test_keys_are_a_list_of_secrets(keys: Any, error: str) -> None:
    """The error says what keys should be, and shows no key."""
    with pytest.raises(TypeError, match=error) as caught:
        MsgPackSerializer(keys)
    assert "secret" not in str(caught.value)


def test_cryptography_is_needed_only_for_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without cryptography, keys raise an error that names the extra to install."""
    monkeypatch.setitem(sys.modules, "cryptography.fernet", None)
    assert MsgPackSerializer([]).crypter is None
    with pytest.raises(ImportError, match=r"pip install 'fast-channels\[encryption\]'"):
        MsgPackSerializer(["secret"])


# The registry


class Reversed(BaseMessageSerializer):
    """A user's format."""

    def as_bytes(self, message: Mapping[str, Any]) -> bytes:
        return repr(dict(message)).encode()[::-1]

    def from_bytes(self, data: bytes) -> Any:
        if data != b"}{":
            raise LookupError("not empty")
        return {}


def test_custom_format_is_used() -> None:
    """A registered class gets the arguments, and its errors are translated."""
    formats = SerializersRegistry()
    formats.register_serializer("reversed", JSONSerializer)
    formats.register_serializer("reversed", Reversed)
    serializer = formats.get_serializer("reversed", random_prefix_length=3)
    assert isinstance(serializer, Reversed)
    data = serializer.serialize({})
    assert data[3:] == b"}{"
    assert serializer.deserialize(data) == {}
    error = r"Reversed cannot decode these 2 bytes: LookupError: not empty"
    with pytest.raises(UndecodableMessage, match=error):
        serializer.deserialize(b"xxx{}")


class Careless(MsgPackSerializer):
    """A custom format that overrides more than the encoding."""

    def deserialize(self, data: bytes) -> dict[str, Any]:
        message = super().deserialize(data.removeprefix(b"?"))
        return cast("dict[str, Any]", message["content"])


def test_errors_of_a_custom_deserialize_are_translated() -> None:
    """decoder() raises UndecodableMessage for any exception of deserialize()."""
    decode = decoder(Careless())
    assert decode(b"?\x81\xa7content\x80") == {}
    with pytest.raises(
        UndecodableMessage, match=r"Careless cannot .* KeyError: 'conte"
    ):
        decode(b"\x80")
    with pytest.raises(UndecodableMessage, match=r"^Careless cannot .* 1 bytes"):
        decode(b"\xc1")
    with pytest.raises(UndecodableMessage, match=r"these 11 bytes are a list"):
        decode(b"\x81\xa7content\x91\x01")


@pytest.mark.parametrize("name", ["xml", None, []])
def test_unknown_format_is_refused(name: Any) -> None:
    """The error names the format and the known ones."""
    error = rf"for the format {re.escape(repr(name))}, only for 'json', 'msgpack'; add"
    with pytest.raises(SerializerDoesNotExist, match=error) as caught:
        registry.get_serializer(name)
    assert isinstance(caught.value, KeyError)
    assert caught.value.format == name
    with pytest.raises(SerializerDoesNotExist, match=r"only for none; add"):
        SerializersRegistry().get_serializer(name)


@pytest.mark.parametrize("value", [int, JSONSerializer(), None, "json", Encoder])
def test_serializer_is_a_class(value: Any) -> None:
    """A class that lacks one of the two methods cannot be registered."""
    error = r"a class with the methods serialize\(\) and deserialize\(\), .*, not "
    with pytest.raises(TypeError, match=error + re.escape(repr(value))):
        SerializersRegistry().register_serializer("name", value)


def test_format_without_its_library() -> None:
    """Using the format raises its own exception, or an ImportError that names it."""

    class MissingXML(MissingSerializer):
        exception = ImportError("no XML here")

    class MissingYAML(MissingSerializer):
        pass

    formats = SerializersRegistry()
    missing: list[Any] = [MissingXML, MissingYAML]
    formats.register_serializer("xml", missing[0])
    formats.register_serializer("yaml", missing[1])
    with pytest.raises(ImportError, match=r"^no XML here$"):
        formats.get_serializer("xml", random_prefix_length=1)
    with pytest.raises(ImportError, match=r"that MissingYAML stands for is not inst"):
        formats.get_serializer("yaml")


@pytest.mark.parametrize(
    ("serializer_format", "data"),
    [
        ("msgpack", b"\x82\xa1a\x01\xb0__asgi_channel__\x93\xa1b\xa1\xff\xa2\xc3\xa9"),
        ("json", b'{"a": 1, "__asgi_channel__": ["b", "\xff", "\xc3\xa9"]}'),
    ],
)
def test_invalid_channel_names_are_left_out(
    serializer_format: str, data: bytes
) -> None:
    """Redis can add any bytes to the list of channels."""
    serializer = registry.get_serializer(serializer_format)
    assert serializer.deserialize(data) == {"a": 1, "__asgi_channel__": ["b"]}


@pytest.mark.parametrize(
    ("serializer_format", "data"),
    [
        ("msgpack", b"\x81\xa1a\xa1\xff"),
        ("msgpack", b"\x82\xa1a\xa1\xff\xb0__asgi_channel__\x91\xa1\xff"),
        ("msgpack", b"\x91\xa1\xff"),
        ("json", b'{"a": "\xff"}'),
        ("json", b'{"\xff": 1, "__asgi_channel__": "\xff"}'),
    ],
)
def test_other_text_is_utf_8(serializer_format: str, data: bytes) -> None:
    """Text that is not UTF-8 in any other place makes a message undecodable."""
    serializer = registry.get_serializer(serializer_format)
    with pytest.raises(UndecodableMessage, match=r"cannot decode"):
        serializer.deserialize(data)
