"""Serialization of messages: encoding, optional encryption, optional prefix.

The bytes are those of Django's channels_redis::

    prefix + encrypt(encode(message))

The encoding is ``"msgpack"``, ``"json"``, or a format that you register. Messages are
encrypted with Fernet if there are keys. The prefix makes equal messages
different: they are stored in a sorted set, which keeps only one of equal members.
"""

import abc
import functools
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

# msgpack has no type hints; the two functions get theirs below.
import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

from fast_channels.exceptions import SerializerDoesNotExist, UndecodableMessage

from .contents import find_bytes, require_carried
from .encryption import make_crypter, require_keys
from .options import require_int

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

__all__ = [
    "BaseMessageSerializer",
    "JSONSerializer",
    "MessageSerializer",
    "MissingSerializer",
    "MsgPackSerializer",
    "SerializerDoesNotExist",
    "SerializersRegistry",
    "UndecodableMessage",
    "registry",
]

_packb = cast("Callable[[object], bytes]", msgpack.packb)  # pyright: ignore[reportUnknownMemberType] # untyped
_unpackb = cast("Callable[..., Any]", msgpack.unpackb)  # pyright: ignore[reportUnknownMemberType] # untyped

# Seconds that an encrypted message can exceed its expiry, because clocks differ.
_LENIENCE = 10

CHANNEL_KEY = "__asgi_channel__"
"""Key of a message for the channels of a process that it is for: a name, or a list of
names."""

# Error handler for text that is not UTF-8: its result is a str no message can contain.
_ESCAPE = "surrogateescape"

# Maximum length of the quoted error of a serializer, which may contain the message.
_SHOWN = 200


class MessageSerializer(Protocol):
    """The interface of a serializer; any class with these methods can be one."""

    def serialize(self, message: Any, /) -> bytes:
        """Return the bytes to send for a message, or raise TypeError."""
        ...

    def deserialize(self, data: bytes, /) -> Any:
        """Return the message, a dict, decoded from these bytes, or raise."""
        ...


class BaseMessageSerializer(abc.ABC):
    """Base class of formats: implement ``as_bytes`` and ``from_bytes``.

    Args:
        symmetric_encryption_keys: Secrets, str or bytes, for encrypting messages. The
            first one encrypts; all of them can decrypt, so that keys can be replaced.
        random_prefix_length: Number of bytes put before each message to make it
            unique; none by default.
        expiry: Seconds, plus ten, after which an encrypted message is rejected;
            never by default.

    Raises:
        ImportError: Keys are given, but cryptography is not installed.
        TypeError: An argument has the wrong type.
    """

    def __init__(
        self,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 0,
        expiry: float | None = None,
    ) -> None:
        keys = require_keys(symmetric_encryption_keys)
        self.crypter: MultiFernet | None = make_crypter(keys) if keys else None
        """The cipher, or None without keys."""
        length = require_int("random_prefix_length", random_prefix_length)
        self.random_prefix_length: int = max(length, 0)
        """Number of bytes put before each message."""
        self.expiry: float | None = expiry
        """Seconds, plus ten, after which an encrypted message is rejected."""
        limited = expiry is not None and math.isfinite(expiry)
        # The same as a whole number of seconds, as Fernet requires.
        self._age_limit = math.ceil(expiry) + _LENIENCE if expiry and limited else None
        self._prefixes = _Prefixes(self.random_prefix_length)

    @abc.abstractmethod
    def as_bytes(self, message: Mapping[str, Any]) -> bytes:
        """Encode a message."""

    @abc.abstractmethod
    def from_bytes(self, data: bytes) -> Any:
        """Decode a message, which is a dict; raise any exception if that fails."""

    def serialize(self, message: Mapping[str, Any]) -> bytes:
        """Return the bytes to send for a message.

        Raises:
            TypeError: The format cannot encode the message.
        """
        try:
            data = self.as_bytes(message)
        except (TypeError, ValueError, OverflowError, RecursionError) as exc:
            raise TypeError(
                f"this message cannot be sent, as {type(self).__name__} cannot encode "
                f"it: {str(exc)[:_SHOWN]}"
            ) from exc
        if self.crypter is not None:
            data = self.crypter.encrypt(data)
        if self.random_prefix_length:
            data = self.unique_prefix() + data
        return data

    def deserialize(self, data: bytes) -> dict[str, Any]:
        """Return the message decoded from these bytes.

        Raises:
            UndecodableMessage: The bytes are not a message.
        """
        data = data[self.random_prefix_length :]
        if self.crypter is not None:
            data = self._decrypt(self.crypter, data)
        return _decoded(self, self.from_bytes, data)

    def unique_prefix(self) -> bytes:
        """Return a prefix that no other message has; empty if the length is 0."""
        return self._prefixes.next()

    def _decrypt(self, crypter: "MultiFernet", token: bytes) -> bytes:
        try:
            return crypter.decrypt(token, self._age_limit)
        # Usually InvalidToken; after any exception, the bytes are not a message.
        except Exception as exc:
            reason = "none of the symmetric_encryption_keys fits, or they are damaged"
            if self._age_limit is not None:
                reason += f", or older than {self._age_limit} s"
            raise UndecodableMessage(
                f"these {len(token)} bytes cannot be decrypted: {reason}"
            ) from exc


class MsgPackSerializer(BaseMessageSerializer):
    """Encodes messages as msgpack, which carries what every layer does.

    A tuple arrives as a list. The keys of dicts are str or bytes.
    """

    def as_bytes(self, message: Mapping[str, Any]) -> bytes:
        """Encode a message."""
        return _packb(message)

    def from_bytes(self, data: bytes) -> Any:
        """Decode a message.

        A length beyond the end of the bytes is rejected before memory is allocated for
        it.
        """
        try:
            return _unpackb(data)
        except UnicodeDecodeError:
            return _without_bad_names(_unpackb(data, unicode_errors=_ESCAPE))


class JSONSerializer(BaseMessageSerializer):
    """Encodes messages as JSON, which carries what every layer does except bytes.

    A tuple arrives as a list.
    """

    def as_bytes(self, message: Mapping[str, Any]) -> bytes:
        """Encode a message."""
        try:
            return json.dumps(message).encode()
        except TypeError:
            problem = find_bytes(message)
            if problem is None:
                raise
        raise TypeError(
            f"{problem}, which JSON does not carry; send text, such as its base64, or "
            "use the format 'msgpack'"
        )

    def from_bytes(self, data: bytes) -> Any:
        """Decode a message."""
        try:
            return json.loads(data.decode())
        except UnicodeDecodeError:
            return _without_bad_names(json.loads(data.decode(errors=_ESCAPE)))


class MissingSerializer(BaseMessageSerializer):
    """A format whose library is not installed: using it raises ``exception``.

    Subclass it, set ``exception``, and register the subclass, so that users of other
    formats do not need the library.
    """

    exception: BaseException | None = None
    """The exception to raise, usually the ImportError of the library."""

    def __new__(  # pyright: ignore[reportInconsistentConstructor] # only raises
        cls, *_args: object, **_kwargs: object
    ) -> Self:
        """Raise ``exception``."""
        raise cls.exception or ImportError(
            f"the library that {cls.__name__} stands for is not installed"
        )


class SerializersRegistry:
    """The registered formats, each with a name and a serializer class."""

    def __init__(self) -> None:
        self._classes: dict[str, Callable[..., MessageSerializer]] = {}

    def register_serializer(
        self,
        format: str,  # noqa: A002 # as in channels_redis
        serializer_class: Callable[..., MessageSerializer],
    ) -> None:
        """Add or replace a format.

        Args:
            format: Name to pass to a layer as ``serializer_format``.
            serializer_class: A subclass of ``BaseMessageSerializer``, or any class with
                the methods ``serialize`` and ``deserialize``. A layer calls it with the
                arguments ``symmetric_encryption_keys``, ``random_prefix_length`` and
                ``expiry``, by keyword.

        Raises:
            TypeError: The class lacks one of these methods.
        """
        self._classes[format] = _require_serializer(serializer_class)

    def get_serializer(
        self,
        format: str,  # noqa: A002 # as in channels_redis
        *args: Any,
        **kwargs: Any,
    ) -> MessageSerializer:
        """Return a new serializer for a format.

        Args:
            format: Name of the format.
            *args: Positional arguments for the serializer class.
            **kwargs: Keyword arguments for the serializer class.

        Raises:
            SerializerDoesNotExist: The format is not registered.
        """
        try:
            serializer_class = self._classes[format]
        except (KeyError, TypeError):
            raise SerializerDoesNotExist(format, self._classes) from None
        return serializer_class(*args, **kwargs)


class _Prefixes:
    """Prefixes of one length: a counter that starts at a random number.

    With enough bytes, the counters of different processes do not meet, and none repeats
    a number before it has used all of them. Counting needs no system call for
    randomness, and keeps messages of the same moment in sending order, as a sorted set
    orders equal scores by bytes.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._total = 1 << 8 * length
        self._start()

    def next(self) -> bytes:
        # A forked process would continue the counter of its parent.
        if self._pid != os.getpid():
            self._start()
        number = next(self._numbers) % self._total
        return number.to_bytes(self._length, "big")

    def _start(self) -> None:
        # The process that uses these numbers.
        self._pid = os.getpid()
        # Thread-safe: count() yields each number once.
        self._numbers = itertools.count(int.from_bytes(os.urandom(self._length), "big"))


def decoder(serializer: MessageSerializer) -> Callable[[bytes], dict[str, Any]]:
    """Return the method ``deserialize`` of any serializer, with one kind of error.

    The function that is returned raises nothing but ``UndecodableMessage``.
    """
    decode = serializer.deserialize
    if type(serializer).deserialize is BaseMessageSerializer.deserialize:
        return decode
    return functools.partial(_decoded, serializer, decode)


def _decoded(
    serializer: MessageSerializer, decode: Callable[[bytes], object], data: bytes
) -> dict[str, Any]:
    """Return the message that a method of a serializer decodes from these bytes.

    Raises:
        UndecodableMessage: The method raises any exception, or returns no dict.
    """
    try:
        message = decode(data)
    except UndecodableMessage:
        raise
    # A format can raise anything for bytes that it did not produce; whatever it raises,
    # they are not a message.
    except Exception as exc:
        raise UndecodableMessage(
            f"{type(serializer).__name__} cannot decode these {len(data)} bytes: "
            # Not the repr: msgpack's contains the bytes.
            f"{type(exc).__name__}: {exc}"
        ) from exc
    if not isinstance(message, dict):
        raise UndecodableMessage(
            f"a message must be a dict; these {len(data)} bytes are a "
            f"{type(message).__name__}"
        )
    return cast("dict[str, Any]", message)


def _without_bad_names(message: Any) -> Any:
    """Return a message without the names in its list of channels that are not ASCII.

    Redis completes the list with the members of the group, where any program that can
    write to Redis may have put any bytes; the other channels still get the message.

    Raises:
        TypeError: Another part of the message is not UTF-8 either.
    """
    if isinstance(message, dict):
        own = cast("dict[str, Any]", message)
        names = own.get(CHANNEL_KEY)
        if isinstance(names, list):
            own[CHANNEL_KEY] = [
                name for name in cast("list[object]", names) if str(name).isascii()
            ]
    require_carried(cast("object", message))
    return cast("Any", message)


def _require_serializer(value: object) -> Callable[..., MessageSerializer]:
    methods = [getattr(value, name, None) for name in ("serialize", "deserialize")]
    if callable(value) and all(map(callable, methods)):
        return cast("Callable[..., MessageSerializer]", value)
    raise TypeError(
        "a serializer must be a class with the methods serialize() and deserialize(), "
        f"such as a subclass of BaseMessageSerializer, not {value!r}"
    )


registry: SerializersRegistry = SerializersRegistry()
"""The formats available as a layer's ``serializer_format``."""
registry.register_serializer("msgpack", MsgPackSerializer)
registry.register_serializer("json", JSONSerializer)

LIST_ENDS: dict[type, tuple[bytes, bytes, str]] = {
    MsgPackSerializer: (b"\x90", b"", "msgpack"),
    JSONSerializer: (b"[]", b"}", "json"),
}
"""How a message ends whose last value is an empty list: with the list, and what is
after it; and the encoding. Redis can complete such a message, as it knows both."""
