"""The exceptions of the library."""

import copy

import pytest

from fast_channels.exceptions import (
    AcceptConnection,
    ChannelFull,
    DenyConnection,
    InvalidChannelLayerError,
    MessageTooLarge,
    RedisUnavailable,
    RequestAborted,
    RequestTimeout,
    StopConsumer,
    UndecodableMessage,
)


@pytest.mark.parametrize(
    ("exception", "base"),
    [
        (InvalidChannelLayerError, ValueError),
        (UndecodableMessage, ValueError),
        (RedisUnavailable, ConnectionError),
        (ChannelFull, Exception),
        (MessageTooLarge, Exception),
        (RequestAborted, Exception),
        (RequestTimeout, RequestAborted),
        (AcceptConnection, Exception),
        (DenyConnection, Exception),
        (StopConsumer, Exception),
    ],
)
def test_exceptions_form_a_tree(
    exception: type[Exception], base: type[Exception]
) -> None:
    """Each exception can be raised without arguments, and caught as its base."""
    assert exception.__bases__ == (base,)
    with pytest.raises(base):
        raise exception


@pytest.mark.parametrize(
    ("error", "channel", "text"),
    [
        (ChannelFull(), None, "the channel is full"),
        (
            ChannelFull("chat.1"),
            "chat.1",
            "channel 'chat.1' is full; its consumer does not keep up",
        ),
        (
            ChannelFull("chat.1", option="process_capacity"),
            "chat.1",
            (
                "the process of channel 'chat.1' is full (process_capacity): it is "
                "busy, cut off from Redis, or gone"
            ),
        ),
    ],
)
def test_channel_full_names_the_channel(
    error: ChannelFull, channel: str | None, text: str
) -> None:
    """The channel is in the text and in an attribute, if the layer knows it."""
    assert error.channel == channel
    assert str(error) == text


@pytest.mark.parametrize(
    "error",
    [
        ChannelFull("chat.1"),
        ChannelFull("chat.1", option="process_capacity"),
        ChannelFull(),
        InvalidChannelLayerError("no layer"),
    ],
)
def test_errors_can_be_copied(error: Exception) -> None:
    """Copying and pickling preserve an error."""
    copied = copy.copy(error)
    assert type(copied) is type(error)
    assert str(copied) == str(error)
    assert vars(copied) == vars(error)
