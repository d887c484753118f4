"""What a failure of Redis means to users."""

import pytest
from redis.exceptions import (
    AuthenticationError,
    AuthenticationWrongNumberOfArgsError,
    BusyLoadingError,
    NoPermissionError,
    NoScriptError,
    OutOfMemoryError,
    ReadOnlyError,
    ResponseError,
)

from fast_channels.layers.redis.trouble import describe, is_refusal


@pytest.mark.parametrize(
    "error",
    [
        AuthenticationError("invalid username-password pair or user is disabled."),
        AuthenticationWrongNumberOfArgsError("wrong number of arguments"),
        BusyLoadingError("Redis is loading the dataset in memory"),
        NoPermissionError("this user has no permissions to run the command"),
        OutOfMemoryError("command not allowed when used memory > 'maxmemory'."),
        ReadOnlyError("You can't write against a read only replica."),
        ResponseError("NOREPLICAS Not enough good replicas to write."),
        ResponseError("MISCONF Redis is configured to save RDB snapshots, but..."),
        ResponseError("BUSY Redis is busy running a script."),
        ResponseError("NOAUTH Authentication required."),
        ResponseError(
            "The user executing the script can't access at least one of the keys "
            "mentioned in the script: script: 0e37, on @user_script:1."
        ),
        ResponseError(
            "Error running script (call to f_1): @user_script:5: -OOM command not "
            "allowed when used memory > 'maxmemory'."
        ),
        ResponseError("max number of clients reached"),
    ],
    ids=lambda error: f"{type(error).__name__}-{str(error)[:10]}",
)
def test_a_refusal_that_can_pass(error: Exception) -> None:
    assert is_refusal(error)


@pytest.mark.parametrize(
    "error",
    [
        ResponseError("WRONGTYPE Operation against a key holding the wrong kind"),
        ResponseError("ERR unknown command 'BUSY'"),
        NoScriptError("No matching script."),
        TimeoutError(),
        ConnectionResetError(),
    ],
    ids=lambda error: f"{type(error).__name__}-{str(error)[:10]}",
)
def test_what_is_no_refusal(error: Exception) -> None:
    assert not is_refusal(error)


def test_a_wrong_password_is_named_as_such() -> None:
    error = AuthenticationError("invalid username-password pair")
    assert describe(error) == (
        "it refuses the username or the password (invalid username-password pair)"
    )


def test_a_timeout_without_a_text_says_what_happened() -> None:
    assert describe(TimeoutError()) == "it did not reply in time"
    assert describe(TimeoutError("it did not answer")) == "it did not answer"


def test_an_error_without_a_text_is_described_by_its_class() -> None:
    assert describe(ConnectionResetError()) == "ConnectionResetError"
    assert describe(ConnectionResetError("reset by peer")) == "reset by peer"
