"""Encryption of messages with keys that the processes share."""

import base64
import hashlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet

__all__ = ["make_crypter", "require_keys"]


def require_keys(keys: object) -> list[bytes]:
    """Return the keys as bytes; errors name only types, because keys are secret."""
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


def make_crypter(keys: list[bytes]) -> "MultiFernet":
    """Return an object that encrypts with the first key, and decrypts with any.

    Raises:
        ImportError: cryptography cannot be imported.
    """
    try:
        # An optional dependency, needed only with keys.
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415
    except ImportError as exc:
        raise ImportError(
            "symmetric_encryption_keys need cryptography, which cannot be imported; "
            "install it: pip install 'fast-channels[encryption]'"
        ) from exc
    # A Fernet key is 32 bytes as URL-safe base64; a secret can have any length.
    return MultiFernet(
        [Fernet(base64.urlsafe_b64encode(hashlib.sha256(key).digest())) for key in keys]
    )
