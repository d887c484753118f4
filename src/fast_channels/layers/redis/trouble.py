"""Classifies failures of Redis by one rule, for every connection and layer.

Redis refuses commands for many reasons: too few replicas, a full disk, no memory, a
script that runs too long, a restart, an access list. Each reason has its own error
code, and ends when an operator has dealt with it. Users see all of them as
:class:`~fast_channels.exceptions.RedisUnavailable`, with the reason in its text.
"""

import re

from .wire import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
    TryAgainError,
)

__all__ = ["describe", "is_refusal"]

_WRONG_LOGIN = (AuthenticationError, AuthenticationWrongNumberOfArgsError)
# redis-py has classes for some codes and removes those codes from the text.
_REFUSALS = (
    *_WRONG_LOGIN,
    BusyLoadingError,
    ClusterDownError,
    MasterDownError,
    NoPermissionError,
    OutOfMemoryError,
    ReadOnlyError,
    TryAgainError,
)
# Other codes are in the text: at its start, or, for an error inside a script before
# Redis 7, after a "-". Redis 7 words ACL refusals inside a script differently.
_CODES = re.compile(
    r"(?:^|-)(?:BUSY|CLUSTERDOWN|LOADING|MASTERDOWN|MISCONF|NOAUTH|NOPERM|NOREPLICAS|"
    r"OOM|READONLY|TRYAGAIN|UNKILLABLE|WRONGPASS)\b"
    r"|can't access at least one of the keys|max number of clients reached"
    r"|No permissions to access a key"
)


def is_refusal(error: BaseException) -> bool:
    """Return whether Redis refused a command for a temporary reason.

    Trying again later can succeed; trying again at once cannot. False for errors that
    need a change of our code or of the data: a key of the wrong type, a script that
    Redis does not know.
    """
    return isinstance(error, _REFUSALS) or (
        isinstance(error, ResponseError) and _CODES.search(str(error)) is not None
    )


def describe(error: BaseException) -> str:
    """Return the text of a failure for logs and errors, never empty."""
    text = str(error)
    if isinstance(error, _WRONG_LOGIN):
        return f"it refuses the username or the password ({text})"
    if isinstance(error, TimeoutError) and not text:
        return "it did not reply in time"
    return text or type(error).__name__
