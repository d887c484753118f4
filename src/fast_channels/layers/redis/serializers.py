"""The serializers, under the name that their module has in channels_redis."""

from fast_channels.layers.serializers import (
    BaseMessageSerializer,
    JSONSerializer,
    MessageSerializer,
    MissingSerializer,
    MsgPackSerializer,
    SerializerDoesNotExist,
    SerializersRegistry,
    UndecodableMessage,
    registry,
)

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
