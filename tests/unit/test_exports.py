"""The exports of the library are the documented ones."""

import importlib
import subprocess
import sys
from importlib.metadata import version

import pytest

import fast_channels

# The public names of each package and module that has any.
PUBLIC: dict[str, set[str]] = {
    "fast_channels": {"__version__"},
    "fast_channels.consumer": {
        "AsyncConsumer",
        "AsyncEventStreamConsumer",
        "AsyncHttpConsumer",
        "AsyncJsonWebsocketConsumer",
        "AsyncWebsocketConsumer",
        "broadcast",
    },
    "fast_channels.exceptions": {
        "AcceptConnection",
        "ChannelFull",
        "DenyConnection",
        "InvalidChannelLayerError",
        "MessageTooLarge",
        "RedisUnavailable",
        "RequestAborted",
        "RequestTimeout",
        "SerializerDoesNotExist",
        "StopConsumer",
        "UndecodableMessage",
    },
    "fast_channels.layers": {
        "BaseChannelLayer",
        "ChannelLayerRegistry",
        "Delivery",
        "GroupHistory",
        "GroupMessage",
        "History",
        "InMemoryChannelLayer",
        "Messages",
        "RedisChannelLayer",
        "RedisPubSubChannelLayer",
        "Resumed",
        "SyncChannelLayer",
        "channel_layers",
        "get_channel_layer",
        "has_layers",
        "register_channel_layer",
        "unregister_channel_layer",
    },
    "fast_channels.layers.redis": {
        "RedisChannelLayer",
        "RedisPubSubChannelLayer",
        "RedisUnavailable",
    },
    "fast_channels.layers.redis.serializers": {
        "BaseMessageSerializer",
        "JSONSerializer",
        "MessageSerializer",
        "MissingSerializer",
        "MsgPackSerializer",
        "SerializerDoesNotExist",
        "SerializersRegistry",
        "UndecodableMessage",
        "registry",
    },
    "fast_channels.layers.redis.type_defs": {
        "ChannelDecodedRedisHost",
        "ChannelRawRedisHost",
        "Host",
        "HostSpelling",
        "SymmetricEncryptionKeys",
    },
    "fast_channels.layers.redis.utils": {
        "close_redis",
        "consistent_hash",
        "create_pool",
        "decode_hosts",
        "parse_hosts",
        "shard_of",
        "wrap_close",
    },
    "fast_channels.lifespan": {"channels_lifespan", "close_consumers"},
    "fast_channels.sse": {"EventStreamResponse", "ServerSentEvent"},
    "fast_channels.middleware": {
        "AllowedHostsOriginValidator",
        "BaseMiddleware",
        "CookieMiddleware",
        "OriginValidator",
        "WebsocketDenier",
    },
    "fast_channels.routing": {"ChannelNameRouter", "ProtocolTypeRouter"},
    "fast_channels.testing": {
        "ApplicationCommunicator",
        "HttpCommunicator",
        "WebsocketCommunicator",
    },
    "fast_channels.testing.contract": {"LayerContract", "LayerOptions", "LayerPair"},
    "fast_channels.type_defs": {
        "ASGI3Application",
        "ASGIApplication",
        "ASGIApplicationProtocol",
        "ASGIReceiveCallable",
        "ASGISendCallable",
        "ChannelApplication",
        "ChannelCapacityDict",
        "ChannelCapacityPattern",
        "ChannelHeaders",
        "ChannelLayerProtocol",
        "ChannelMessage",
        "ChannelScope",
        "CompiledChannelCapacities",
        "CompiledChannelCapacity",
        "HttpDisconnectEvent",
        "HttpRequestEvent",
        "HttpResponseBodyEvent",
        "HttpResponseStartEvent",
        "MiddlewareProtocol",
        "WebSocketAcceptEvent",
        "WebSocketCloseEvent",
        "WebSocketConnectEvent",
        "WebSocketDisconnectEvent",
        "WebSocketReceiveEvent",
        "WebSocketSendEvent",
    },
    "fast_channels.utils": {"await_many_dispatch", "is_same_domain"},
    "fast_channels.worker": {"Worker"},
}

# Other modules that export some of these names, for code written for older releases.
ALSO: dict[str, set[str]] = {
    "fast_channels.consumer.base": {"AsyncConsumer"},
    "fast_channels.consumer.http": {"AsyncHttpConsumer"},
    "fast_channels.consumer.websocket": {
        "AsyncJsonWebsocketConsumer",
        "AsyncWebsocketConsumer",
    },
    "fast_channels.layers.base": {"BaseChannelLayer"},
    "fast_channels.layers.in_memory": {"InMemoryChannelLayer"},
    "fast_channels.layers.sync": {"SyncChannelLayer"},
    "fast_channels.middleware.base": {"BaseMiddleware"},
    "fast_channels.middleware.cookies": {"CookieMiddleware"},
    "fast_channels.middleware.websocket": {
        "AllowedHostsOriginValidator",
        "OriginValidator",
        "WebsocketDenier",
    },
    "fast_channels.layers.redis.core": {"RedisChannelLayer"},
    "fast_channels.layers.redis.pubsub.layer": {"RedisPubSubChannelLayer"},
    "fast_channels.layers.redis.queue.layer": {"RedisChannelLayer"},
    "fast_channels.layers.registry": {
        "ChannelLayerRegistry",
        "channel_layers",
        "get_channel_layer",
        "has_layers",
        "register_channel_layer",
        "unregister_channel_layer",
    },
}

# Packages that the core must not need.
OPTIONAL = ("cryptography", "fastapi", "msgpack", "redis", "starlette", "uvicorn")


def run(code: str) -> str:
    """Run code in a fresh interpreter, and return its output."""
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert not result.stderr, result.stderr
    return result.stdout


@pytest.mark.parametrize("module", PUBLIC)
def test_public_names_are_the_documented_ones(module: str) -> None:
    """A package exports exactly the documented names."""
    imported = importlib.import_module(module)
    assert set(imported.__all__) == PUBLIC[module]
    assert [name for name in imported.__all__ if not hasattr(imported, name)] == []


@pytest.mark.parametrize("module", ALSO)
def test_names_can_be_imported_from_their_modules_too(module: str) -> None:
    """A module exports the same objects as its package."""
    imported = importlib.import_module(module)
    package = importlib.import_module(module.rpartition(".")[0])
    assert ALSO[module] <= set(imported.__all__)
    for name in ALSO[module]:
        assert getattr(imported, name) is getattr(package, name)


def test_importing_the_library_imports_none_of_its_parts() -> None:
    """Parts that an application doesn't use are not imported."""
    assert (
        run(
            "import sys, fast_channels;"
            "print([name for name in sys.modules if name.startswith('fast_channels.')])"
        )
        == "[]\n"
    )


@pytest.mark.parametrize("module", [name for name in PUBLIC if ".redis" not in name])
def test_core_imports_nothing_optional(module: str) -> None:
    """Every part of the core can be imported if only the core is installed."""
    hidden = f"sys.modules.update(dict.fromkeys({OPTIONAL!r}))"
    assert run(f"import sys; {hidden}; import {module}; print('imported')") == (
        "imported\n"
    )


@pytest.mark.parametrize("missing", ["redis", "msgpack"])
def test_missing_library_for_redis_is_named_with_its_extra(missing: str) -> None:
    """Importing a layer for Redis without its extra raises an error that names it."""
    code = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        "try: from fast_channels.layers import RedisChannelLayer\n"
        "except ImportError as exc: print(exc)"
    )
    assert run(code) == (
        f"the layers for Redis need {missing}, which cannot be imported; install it: "
        "pip install 'fast-channels[redis]'\n"
    )


def test_version_is_that_of_the_installed_package() -> None:
    """__version__ is the version that pip shows."""
    assert fast_channels.__version__ == version("fast-channels")
