"""The test cluster starts, moves slots and fails over as other tests expect."""

import secrets
import socket
import ssl
import threading
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.redis_servers import cluster as cluster_module
from tests.redis_servers import server as server_module
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.cluster import Endpoint, RedisCluster
from tests.redis_servers.cluster_node import SLOTS, ClusterNode
from tests.redis_servers.resp import Connection, Reply, ReplyError
from tests.redis_servers.server import RedisServer, wait_until
from tests.redis_servers.tls import TLS_HOST


def fill(cluster: RedisCluster, prefix: str, keys: int = 20) -> tuple[int, list[str]]:
    """Store keys in one slot; return it with the keys."""
    names = [f"{prefix}-{{{prefix}}}-{number}" for number in range(keys)]
    slot = cluster.slot_of(names[0])
    for name in names:
        cluster.owner(slot).command("SET", name, name)
    return slot, names


def source_and_target(
    cluster: RedisCluster, slot: int
) -> tuple[ClusterNode, ClusterNode]:
    """Return the owner of a slot, and a master to move it to."""
    source = cluster.owner(slot)
    return source, next(node for node in cluster.masters() if node is not source)


def announced_address(node: ClusterNode) -> Reply:
    """Return the address that a node announces to clients."""
    match node.command("CLUSTER", "SLOTS"):
        case [[_, _, [address, *_], *_], *_]:
            return address
        case other:
            raise AssertionError(f"not the reply to CLUSTER SLOTS: {other!r}")


@contextmanager
def killing_clients(cluster: RedisCluster) -> Generator[None]:
    """Kill all connections again and again during the block."""
    end = threading.Event()

    def kill() -> None:
        while not end.wait(0.01):
            for node in cluster.nodes:
                # The connection with this command can be killed by the previous one.
                node.insist("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    thread = threading.Thread(target=kill)
    thread.start()
    yield
    end.set()
    thread.join()


# Starting


def test_start(redis_cluster: RedisCluster) -> None:
    """Three masters share the slots in thirds, and each has a replica in sync."""
    masters, replicas = redis_cluster.nodes[:3], redis_cluster.nodes[3:]
    assert len(redis_cluster.urls) == 6
    assert redis_cluster.masters() == masters
    assert [redis_cluster.replica(master) for master in masters] == replicas
    assert [redis_cluster.replica(replica) for replica in replicas] == masters
    for slot, owner in ((0, 0), (SLOTS // 2, 1), (SLOTS - 1, 2)):
        assert redis_cluster.owner(slot) is masters[owner]


@pytest.mark.parametrize("key", ["", "plain", "{a}", "x{a}y{b}", "x{}y{b}", "{é", "}{"])
def test_slot_of_a_key(redis_cluster: RedisCluster, key: str) -> None:
    """The slot of a key is the one that Redis computes."""
    node = redis_cluster.nodes[0]
    assert redis_cluster.slot_of(key) == node.command("CLUSTER", "KEYSLOT", key)


def test_port_is_taken(
    redis_binary: ServerBinary,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A cluster that finds one of its ports taken starts on different ports."""
    taken = iter([redis_server.port])

    def choose(host: str) -> int:
        return next(taken, None) or server_module.free_port(host)

    monkeypatch.setattr(cluster_module, "free_port", choose)
    with RedisCluster(redis_binary) as cluster:
        assert redis_server.port not in {node.port for node in cluster.nodes}
        assert len(cluster.masters()) == 3


@pytest.mark.parametrize(
    ("host", "endpoint", "announced"),
    [("::1", "ip", b"::1"), ("127.0.0.1", "unknown-endpoint", None)],
)
def test_password_and_address(
    redis_binary: ServerBinary, host: str, endpoint: Endpoint, announced: bytes | None
) -> None:
    """Nodes require a password, and announce the address that a test chooses."""
    secret = secrets.token_hex(8)
    with RedisCluster(
        redis_binary, host=host, endpoint=endpoint, password=secret
    ) as cluster:
        slot, names = fill(cluster, "test")
        source, target = source_and_target(cluster, slot)
        cluster.move_slot(slot, target)
        assert target.command("GET", names[-1]) == names[-1].encode()
        assert announced_address(source) == announced
        with (
            Connection(source.host, source.port) as stranger,
            pytest.raises(ReplyError, match="NOAUTH"),
        ):
            stranger.command("PING")


def test_tls(redis_binary: ServerBinary) -> None:
    """Clients are referred to nodes that speak TLS."""
    with RedisCluster(redis_binary, tls=True) as cluster:
        assert cluster.certificate is not None
        context = ssl.create_default_context(cafile=cluster.certificate.path)
        node = cluster.nodes[0]
        assert cluster.urls[0] == f"rediss://{TLS_HOST}:{node.port}"
        assert announced_address(node) == TLS_HOST.encode()
        with (
            socket.create_connection((TLS_HOST, node.port), 5) as plain,
            context.wrap_socket(plain, server_hostname=TLS_HOST) as client,
        ):
            client.sendall(b"PING\r\n")
            assert client.recv(100) == b"+PONG\r\n"
            node.kill()
            assert client.recv(100) == b""


# Slots that move


def test_move_slot(redis_cluster: RedisCluster, cluster_prefix: str) -> None:
    """A slot moves with its keys while connections are killed."""
    slot, names = fill(redis_cluster, cluster_prefix)
    source, target = source_and_target(redis_cluster, slot)
    with killing_clients(redis_cluster):
        redis_cluster.move_slot(slot, target, hold_open=0.01)
    assert redis_cluster.owner(slot) is target
    assert len(redis_cluster.keys(cluster_prefix)) == len(names)
    assert [target.command("GET", name) for name in names] == [
        name.encode() for name in names
    ]
    with pytest.raises(ReplyError, match=f"MOVED {slot} 127.0.0.1:{target.port}"):
        source.command("GET", names[0])
    redis_cluster.delete_keys(cluster_prefix)
    assert redis_cluster.keys(cluster_prefix) == []


def test_open_move(redis_cluster: RedisCluster, cluster_prefix: str) -> None:
    """While a slot is moving, the owner refers to the target for missing keys."""
    slot, names = fill(redis_cluster, cluster_prefix, keys=2)
    source, target = source_and_target(redis_cluster, slot)
    redis_cluster.start_move(slot, target)
    with pytest.raises(ReplyError, match=f"ASK {slot} 127.0.0.1:{target.port}"):
        source.command("GET", f"new-{{{cluster_prefix}}}")
    redis_cluster.move_keys(slot, limit=1)
    with pytest.raises(ReplyError, match="TRYAGAIN"):
        source.command("MGET", *names)
    assert redis_cluster.owner(slot) is source
    redis_cluster.finish_move(slot)
    assert redis_cluster.owner(slot) is target
    assert target.command("MGET", *names) == [name.encode() for name in names]


def test_atomic_move(valkey_binary: ServerBinary) -> None:
    """On Valkey 9, slots move at once with all of their keys."""
    with RedisCluster(valkey_binary) as cluster:
        slot, names = fill(cluster, "test")
        source, target = source_and_target(cluster, slot)
        cluster.migrate_slots(range(slot, slot + 1), target)
        assert target.command("MGET", *names) == [name.encode() for name in names]
        with killing_clients(cluster):
            cluster.migrate_slots(range(slot, slot + 1), source)
        assert source.command("MGET", *names) == [name.encode() for name in names]
        cluster.flush()
        assert cluster.keys("test") == []


# Failover


def test_failover(own_redis_cluster: RedisCluster) -> None:
    """A replica takes over on request, and the first master when that one freezes.

    heal() makes the frozen node a replica.
    """
    cluster = own_redis_cluster
    slot, names = fill(cluster, "test", keys=1)
    first = cluster.owner(slot)
    second = cluster.replica(first)
    cluster.fail_over(second)
    assert cluster.owner(slot) is second
    cluster.wait_until_whole()
    assert second.command("GET", *names) == names[0].encode()
    second.pause()
    with pytest.raises(ConnectionError, match=f"no node serves slot {slot}"):
        cluster.owner(slot)
    assert cluster.wait_for_new_master(second) is first
    assert first.command("GET", *names) == names[0].encode()
    cluster.heal()
    assert cluster.owner(slot) is first
    assert not second.state().is_master


def test_missing_shard(redis_binary: ServerBinary) -> None:
    """Without one shard, a cluster can serve the others; heal() restarts the shard."""
    with RedisCluster(redis_binary, node_timeout=0.5, full_coverage=False) as cluster:
        slot, (key,) = fill(cluster, "test", keys=1)
        alive = cluster.owner(slot)
        dead = next(node for node in cluster.masters() if node is not alive)
        for node in (dead, cluster.replica(dead)):
            node.kill()

        def failed() -> bool:
            return alive.cluster_info()["cluster_slots_fail"] != "0"

        wait_until(failed, "the shard is missing", 10)
        assert alive.command("GET", key) == key.encode()
        cluster.heal()
        assert dead in cluster.masters()
