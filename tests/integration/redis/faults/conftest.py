"""The duration of storms, and layers that are closed after each test."""

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Protocol, TypedDict, Unpack

import pytest

from fast_channels.layers import RedisChannelLayer
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.sentinel import Sentinels
from tests.redis_servers.server import RedisServer

# Storms are short unless this variable is "full", which makes each of them take
# minutes.
_FULL = os.environ.get("FAST_CHANNELS_TEST_STORMS") == "full"
_FULL_TIMEOUT = 600

# Enough room for everything a storm leaves behind; a dropped message would look lost.
_ROOM = 1_000_000


class Options(TypedDict, total=False):
    """Options of the layers under test."""

    expiry: float
    group_expiry: float
    capacity: int
    process_capacity: int
    symmetric_encryption_keys: list[str]
    connection_kwargs: dict[str, float]


class MakeLayer(Protocol):
    """Make a layer, as another process would. All layers of a test share a prefix."""

    def __call__(
        self,
        where: RedisServer | Sentinels | RedisCluster | str,
        **options: Unpack[Options],
    ) -> RedisChannelLayer: ...


class Storm(Protocol):
    """Choose the size of a storm."""

    def __call__(self, *, short: int, full: int) -> int: ...


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave the tests of this package enough time for full storms."""
    for item in items:
        if _FULL and item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.timeout(_FULL_TIMEOUT))


@pytest.fixture
def storm() -> Storm:
    """Give a test the size of its storm, which depends on the environment."""

    def choose(*, short: int, full: int) -> int:
        return full if _FULL else short

    return choose


@pytest.fixture
async def make_layer(prefix: str) -> AsyncIterator[MakeLayer]:
    """Give a test layers with options of its choice, which must be empty at the end."""
    layers: list[RedisChannelLayer] = []
    services: list[Sentinels | RedisCluster] = []

    def make_layer(
        where: RedisServer | Sentinels | RedisCluster | str,
        **options: Unpack[Options],
    ) -> RedisChannelLayer:
        options.setdefault("capacity", _ROOM)
        options.setdefault("process_capacity", _ROOM)
        if isinstance(where, Sentinels):
            services.append(where)
            layer = RedisChannelLayer(
                prefix=prefix,
                sentinels=where.addresses,
                service_name=where.service_name,
                **options,
            )
        elif isinstance(where, RedisCluster):
            services.append(where)
            layer = RedisChannelLayer(prefix=prefix, cluster=where.urls, **options)
        else:
            url = where if isinstance(where, str) else where.url
            layer = RedisChannelLayer([url], prefix, **options)
        layers.append(layer)
        return layer

    yield make_layer
    for layer in layers:
        await layer.close()
        held = layer.statistics()
        left = {name: held[name] for name in ("channels", "groups", "waiting")}
        assert not any(left.values()), f"{layer!r} still holds {left}"
    for service in services:
        place = service if isinstance(service, RedisCluster) else service.master
        place.delete_keys(prefix)
