"""How a message becomes bytes: encoded, perhaps encrypted, perhaps with a prefix.

The bytes are those of Django's channels_redis::

    prefix + encrypt(encode(message))

The encoding is that of a format, ``"msgpack"`` or ``"json"``, or one that you register.
Messages are encrypted with Fernet if there are keys. The prefix makes equal messages
different: they wait in a sorted set, which keeps only one of equal members.
"""

import abc
import base64
import hashlib
import itertools
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Protocol, Self, cast

# msgpack comes without types; the two functions get theirs below.
import msgpack  # type: ignore[import-untyped]  # pyright: ignore[reportMissingTypeStubs]

from fast_channels.exceptions import SerializerDoesNotExist, UndecodableMessage
from fast_channels.layers.contents import find_bytes, require_carried

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

# How much older than its expiry an encrypted message may be: what clocks differ by.
_LENIENCE = 10

CHANNEL_KEY = "__asgi_channel__"
"""The key of a message under which senders write for which channels of a process it
is: a name, or a list of names."""

# How text that is not UTF-8 is decoded: to a str that no message may hold.
_ESCAPE = "surrogateescape"

# How much an error shows of that of a serializer, which may quote the message.
_SHOWN = 200


class MessageSerializer(Protocol):
    """What a layer needs of a serializer; any class with these methods can be one."""

    def serialize(self, message: Any, /) -> bytes:
        """Return the bytes to send for a message; raise TypeError if there are none."""
        ...

    def deserialize(self, data: bytes, /) -> Any:
        """Return the message, a dict, that was sent as these bytes; or raise."""
        ...


class BaseMessageSerializer(abc.ABC):
    """A format of messages: implement ``as_bytes`` and ``from_bytes``.

    Args:
        symmetric_encryption_keys: Secrets, str or bytes, to encrypt messages with. The
            first one encrypts, each may decrypt, so that keys can be replaced.
        random_prefix_length: How many bytes to put before each message to make it
            unique; none by default.
        expiry: After how many seconds, and ten more, an encrypted message is refused;
            never by default.

    Raises:
        ImportError: There are keys, and cryptography is not installed.
        TypeError: An argument is not of the type it should be.
    """

    def __init__(
        self,
        symmetric_encryption_keys: Iterable[str | bytes] | None = None,
        random_prefix_length: int = 0,
        expiry: float | None = None,
    ) -> None:
        keys = _require_keys(symmetric_encryption_keys)
        self.crypter: MultiFernet | None = _make_crypter(keys) if keys else None
        """What encrypts and decrypts, or None without keys."""
        self.random_prefix_length: int = max(_require_length(random_prefix_length), 0)
        """How many bytes are put before each message."""
        self.expiry: float | None = expiry
        """The age in seconds after which, ten later, what is encrypted is refused."""
        limited = expiry is not None and math.isfinite(expiry)
        # The same as a whole number of seconds, which is what Fernet counts in.
        self._age_limit = math.ceil(expiry) + _LENIENCE if expiry and limited else None
        self._prefixes = _Prefixes(self.random_prefix_length)

    @abc.abstractmethod
    def as_bytes(self, message: Mapping[str, Any]) -> bytes:
        """Encode a message."""

    @abc.abstractmethod
    def from_bytes(self, data: bytes) -> Any:
        """Decode a message, which is a dict; raise any exception if it is none."""

    def serialize(self, message: Mapping[str, Any]) -> bytes:
        """Return the bytes to send for a message.

        Raises:
            TypeError: The format cannot carry the message.
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
        """Return the message that was sent as these bytes.

        Raises:
            UndecodableMessage: They are no message.
        """
        data = data[self.random_prefix_length :]
        if self.crypter is not None:
            data = self._decrypt(self.crypter, data)
        try:
            message = self.from_bytes(data)
        # Foreign bytes run through the code of a format: whatever it raises, they are
        # not a message.
        except Exception as exc:
            raise UndecodableMessage(
                f"{type(self).__name__} cannot decode these {len(data)} bytes: "
                # Not its repr: that of msgpack's holds what there was to decode.
                f"{type(exc).__name__}: {exc}"
            ) from exc
        if not isinstance(message, dict):
            raise UndecodableMessage(
                f"a message must be a dict; these {len(data)} bytes are a "
                f"{type(message).__name__}"
            )
        return cast("dict[str, Any]", message)

    def unique_prefix(self) -> bytes:
        """Return a prefix that no other message has; empty if its length is 0."""
        return self._prefixes.next()

    def _decrypt(self, crypter: "MultiFernet", token: bytes) -> bytes:
        try:
            return crypter.decrypt(token, self._age_limit)
        # InvalidToken, most likely; but whatever it is, they are not a message.
        except Exception as exc:
            reason = "none of the symmetric_encryption_keys fits, or they are damaged"
            if self._age_limit is not None:
                reason += f", or older than {self._age_limit} s"
            raise UndecodableMessage(
                f"these {len(token)} bytes cannot be decrypted: {reason}"
            ) from exc


class MsgPackSerializer(BaseMessageSerializer):
    """Messages as msgpack, which carries what every layer does.

    A tuple arrives as a list. The keys of dicts are str or bytes.
    """

    def as_bytes(self, message: Mapping[str, Any]) -> bytes:
        """Encode a message."""
        return _packb(message)

    def from_bytes(self, data: bytes) -> Any:
        """Decode a message.

        Lengths that the bytes claim and do not have are refused before any memory is
        taken for them.
        """
        try:
            return _unpackb(data)
        except UnicodeDecodeError:
            return _without_bad_names(_unpackb(data, unicode_errors=_ESCAPE))


class JSONSerializer(BaseMessageSerializer):
    """Messages as JSON, which carries what every layer does except bytes.

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

    Subclass it, set ``exception``, and register that, so that those who do not use the
    format do not need the library.
    """

    exception: BaseException | None = None
    """What using the format raises: most often the ImportError of its library."""

    def __new__(  # pyright: ignore[reportInconsistentConstructor] # only raises
        cls, *_args: object, **_kwargs: object
    ) -> Self:
        """Raise ``exception``."""
        raise cls.exception or ImportError(
            f"the library that {cls.__name__} stands for is not installed"
        )


class SerializersRegistry:
    """The known formats: a name, and the class that speaks it."""

    def __init__(self) -> None:
        self._classes: dict[str, Callable[..., MessageSerializer]] = {}

    def register_serializer(
        self,
        format: str,  # noqa: A002 # as in channels_redis
        serializer_class: Callable[..., MessageSerializer],
    ) -> None:
        """Add a format, or replace it.

        Args:
            format: The name to give to a layer as ``serializer_format``.
            serializer_class: A subclass of ``BaseMessageSerializer``, or any class with
                the methods ``serialize`` and ``deserialize``. A layer makes it with the
                keywords ``symmetric_encryption_keys``, ``random_prefix_length`` and
                ``expiry``.

        Raises:
            TypeError: The class does not have these methods.
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
            format: The name of the format.
            *args: What to make the serializer with.
            **kwargs: What to make the serializer with.

        Raises:
            SerializerDoesNotExist: No such format is registered.
        """
        try:
            serializer_class = self._classes[format]
        except (KeyError, TypeError):
            raise SerializerDoesNotExist(format, self._classes) from None
        return serializer_class(*args, **kwargs)


class _Prefixes:
    """Prefixes of one length: a number that starts anywhere, and counts.

    Processes start at numbers too far apart to meet, and none repeats one before it
    has used all numbers of that length. Counting costs no system call for randomness,
    and keeps messages of the same moment in the order in which they were sent, as a
    sorted set orders equal scores by bytes.
    """

    def __init__(self, length: int) -> None:
        self._length = length
        self._total = 1 << 8 * length
        self._start()

    def next(self) -> bytes:
        # A process that was forked would count on where its parent does.
        if self._pid != os.getpid():
            self._start()
        number = next(self._numbers) % self._total
        return number.to_bytes(self._length, "big")

    def _start(self) -> None:
        # The process that these numbers are for.
        self._pid = os.getpid()
        # Safe in several threads: count() yields each number once.
        self._numbers = itertools.count(int.from_bytes(os.urandom(self._length), "big"))


def _without_bad_names(message: Any) -> Any:
    """Return a message without the names in its list of channels that are not ASCII.

    Redis completes the list with whatever is in the group, where any program that can
    write to Redis may have put any bytes; the other channels get the message.

    Raises:
        TypeError: Something else in the message is not UTF-8 either.
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


def _require_length(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"random_prefix_length must be an int, not {value!r}")
    return value


def _require_keys(keys: object) -> list[bytes]:
    """Return the keys as bytes. Errors name types only: a key is a secret."""
    if keys is None:
        return []
    if isinstance(keys, str | bytes) or not isinstance(keys, Iterable):
        raise TypeError(
            "symmetric_encryption_keys must be a list of str or bytes, not "
            f"{type(keys).__name__}; put a single key into a list"
        )
    found: list[bytes] = []
    for key in cast("Iterable[object]", keys):
        if not isinstance(key, str | bytes):
            raise TypeError(
                "each of symmetric_encryption_keys must be str or bytes, not "
                f"{type(key).__name__}"
            )
        found.append(key.encode() if isinstance(key, str) else key)
    return found


def _make_crypter(keys: list[bytes]) -> "MultiFernet":
    try:
        # An extra that only those need who have keys.
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415
    except ImportError as exc:
        raise ImportError(
            "symmetric_encryption_keys need cryptography, which cannot be imported; "
            "install it: pip install 'fast-channels[encryption]'"
        ) from exc
    # A Fernet key is 32 bytes as URL-safe base64; a secret may be of any length.
    return MultiFernet(
        [Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest())) for key in keys]
    )


registry: SerializersRegistry = SerializersRegistry()
"""The formats that a layer's ``serializer_format`` chooses from."""
registry.register_serializer("msgpack", MsgPackSerializer)
registry.register_serializer("json", JSONSerializer)
