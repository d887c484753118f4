"""Every layer passes the contract in each of its forms."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import TypedDict

import pytest
from typing_extensions import override

from fast_channels.layers import (
    BaseChannelLayer,
    InMemoryChannelLayer,
    RedisChannelLayer,
    RedisPubSubChannelLayer,
)
from fast_channels.layers.redis.utils import shard_of
from fast_channels.testing.contract import LayerContract, LayerOptions
from tests.redis_servers.cluster import RedisCluster
from tests.redis_servers.sentinel import Sentinels
from tests.redis_servers.server import RedisServer


class Address(TypedDict, total=False):
    """The addresses of Redis."""

    hosts: list[str]
    cluster: list[str]
    sentinels: list[tuple[str, int]]
    service_name: str


class Spelling(TypedDict, total=False):
    """How messages are serialized."""

    serializer_format: str
    symmetric_encryption_keys: list[str]


# asyncio's debug mode takes most of the time of these tests; it finds the same in one
# form of a layer as in all of them.
_DEBUGGED = {"memory", "queue", "pub/sub"}


class OurContract(LayerContract):
    """The promises of the library's layers, in one form of a layer."""

    name: str
    """The form, as named in the table of the documentation."""

    @pytest.fixture(autouse=True)
    async def debug_mode(self) -> None:
        if self.name not in _DEBUGGED:
            asyncio.get_running_loop().set_debug(False)

    async def test_repr_is_a_report_in_one_line(self, layer: BaseChannelLayer) -> None:
        """The repr of a layer shows its class and its contents."""
        report = repr(layer)
        assert report.startswith(f"<{type(layer).__name__} [")
        assert report.endswith("]>")
        assert "\n" not in report


class TestMemory(OurContract):
    name = "memory"

    @pytest.fixture
    def layers(
        self, options: LayerOptions
    ) -> tuple[InMemoryChannelLayer, InMemoryChannelLayer]:
        layer = InMemoryChannelLayer(**options)
        return layer, layer


class TestQueue(OurContract):
    name = "queue"
    # In Redis, only the capacity of the process limits what waits for its channels.
    send_refuses_when_full = False
    layer_class: type[RedisChannelLayer | RedisPubSubChannelLayer] = RedisChannelLayer
    spelling: Spelling = {}

    @pytest.fixture
    def servers(self, redis_server: RedisServer) -> list[RedisServer]:
        return [redis_server]

    @pytest.fixture
    def where(self, servers: list[RedisServer]) -> Address:
        return {"hosts": [server.url for server in servers]}

    @pytest.fixture
    def layers(
        self,
        options: LayerOptions,
        where: Address,
        servers: list[RedisServer],
        prefix: str,
    ) -> Iterator[list[BaseChannelLayer]]:
        yield [
            self.layer_class(prefix=prefix, **where, **self.spelling, **options)
            for _ in range(2)
        ]
        for server in servers:
            server.delete_keys(prefix)


class OnTwoHosts:
    @pytest.fixture
    def servers(
        self, redis_server: RedisServer, second_redis_server: RedisServer
    ) -> list[RedisServer]:
        return [redis_server, second_redis_server]


class BehindSentinel:
    @pytest.fixture
    def servers(self, sentinels: Sentinels) -> list[RedisServer]:
        return [sentinels.master]

    @pytest.fixture
    def where(self, sentinels: Sentinels) -> Address:
        return {
            "sentinels": sentinels.addresses,
            "service_name": sentinels.service_name,
        }


class TestQueueOnTwoHosts(OnTwoHosts, TestQueue):
    name = "queue on two hosts"


class TestQueueBehindSentinel(BehindSentinel, TestQueue):
    name = "queue behind Sentinel"


class OnCluster:
    @pytest.fixture
    def where(self, redis_cluster: RedisCluster, prefix: str) -> Iterator[Address]:
        yield {"cluster": redis_cluster.urls[:2]}
        redis_cluster.delete_keys(prefix)


class TestQueueOnCluster(OnCluster, TestQueue):
    name = "queue on a cluster"


class TestQueueWithoutTracking(TestQueue):
    name = "queue without tracking"

    @pytest.fixture
    def where(self, url_without_tracking: str) -> Address:
        return {"hosts": [url_without_tracking]}


class TestEncryptedQueue(TestQueue):
    name = "encrypted queue"
    spelling: Spelling = {"symmetric_encryption_keys": ["secret"]}


class TestQueueOfJson(TestQueue):
    name = "queue of JSON"
    spelling: Spelling = {"serializer_format": "json"}
    carries_bytes = False


class TestPubSub(TestQueue):
    name = "pub/sub"
    layer_class = RedisPubSubChannelLayer
    prefixes_channels = True
    any_name_is_valid = True
    keeps_messages_for_later_receivers = False
    shards = 1

    @override
    def lanes(self, layer: BaseChannelLayer) -> Sequence[str]:
        assert isinstance(layer, RedisPubSubChannelLayer)
        if self.shards == 1:
            return ()
        by_shard = {
            shard_of(f"{layer.prefix}__group__lane-{number}", self.shards): number
            for number in range(1000)
        }
        return [f"lane-{by_shard[shard]}" for shard in range(self.shards)]


class TestPubSubOnTwoHosts(OnTwoHosts, TestPubSub):
    name = "pub/sub on two hosts"
    shards = 2


class TestPubSubBehindSentinel(BehindSentinel, TestPubSub):
    name = "pub/sub behind Sentinel"


class TestPubSubOnCluster(OnCluster, TestPubSub):
    name = "pub/sub on a cluster"
    shards = 64


FORMS: list[type[OurContract]] = [
    TestMemory,
    TestQueue,
    TestQueueOnTwoHosts,
    TestQueueBehindSentinel,
    TestQueueOnCluster,
    TestQueueWithoutTracking,
    TestEncryptedQueue,
    TestQueueOfJson,
    TestPubSub,
    TestPubSubOnTwoHosts,
    TestPubSubBehindSentinel,
    TestPubSubOnCluster,
]
