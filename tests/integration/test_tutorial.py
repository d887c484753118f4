"""The code after each part of the tutorial behaves as described.

``docs/tutorial/code`` has the files that each part adds or changes.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import httpx
import pytest
import websockets

from tests.redis_servers.server import RedisServer, free_port

_CODE = Path(__file__).parents[2] / "docs/tutorial/code"


@pytest.fixture
def folder(part: int, tmp_path: Path) -> Path:
    """The reader's folder at the end of a part."""
    for done in range(1, part + 1):
        shutil.copytree(_CODE / f"part{done}", tmp_path, dirs_exist_ok=True)
    return tmp_path


def start(
    folder: Path, *arguments: str, redis: RedisServer | None = None
) -> subprocess.Popen[str]:
    environment = {k: v for k, v in os.environ.items() if k != "REDIS_URL"}
    if redis is not None:
        environment["REDIS_URL"] = redis.url
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@contextlib.contextmanager
def serving(
    folder: Path, servers: int = 1, redis: RedisServer | None = None
) -> Generator[list[str]]:
    """Run one or more ``uvicorn main:app``, and press Ctrl-C at the end."""
    ports = [str(free_port()) for _ in range(servers)]
    processes = [
        start(folder, "-m", "uvicorn", "main:app", "--port", port, redis=redis)
        for port in ports
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            log: list[str] = []
            while not log or "Uvicorn running on" not in log[-1]:
                log.append(process.stdout.readline())
                assert log[-1], log
        yield [f"127.0.0.1:{port}" for port in ports]
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        output = "".join(process.communicate(timeout=10)[0] for process in processes)
    assert "Traceback" not in output


def connect(address: str) -> websockets.connect:
    return websockets.connect(f"ws://{address}", proxy=None)


async def request(method: str, url: str) -> str:
    async with httpx.AsyncClient(trust_env=False) as client:
        response = await client.request(method, url)
    assert response.status_code == 200
    return response.text


async def expect(*clients: websockets.ClientConnection, **content: str) -> None:
    for client in clients:
        assert json.loads(await client.recv()) == content


@pytest.mark.parametrize("part", [1])
async def test_first_part_echoes(folder: Path) -> None:
    """Part 1 serves a page, and echoes texts."""
    with serving(folder) as [address]:
        assert "<title>Echo</title>" in await request("GET", f"http://{address}/")
        async with connect(f"{address}/ws") as client:
            assert await client.recv() == "Hello! What you send comes back."
            await client.send("good morning")
            assert await client.recv() == "You said: good morning"


@pytest.mark.parametrize("part", [2])
async def test_second_part_has_rooms(folder: Path) -> None:
    """Part 2 is a chat with rooms, and refuses a room with a bad name."""
    with serving(folder) as [address]:
        assert "<title>Chat</title>" in await request("GET", f"http://{address}/")
        async with connect(f"{address}/ws/tea?name=Ada") as ada:
            await expect(ada, notice="Ada came in")
            async with connect(f"{address}/ws/tea?name=Bob") as bob:
                await expect(ada, bob, notice="Bob came in")
                await bob.send('{"text": "Hello"}')
                await expect(ada, bob, name="Bob", text="Hello")
            await expect(ada, notice="Bob left")
        with pytest.raises(websockets.InvalidStatus) as refused:
            await connect(f"{address}/ws/Tea%20Room?name=Ada")
        assert refused.value.response.status_code == 404


@pytest.mark.parametrize("part", [3, 4])
def test_third_part_passes(folder: Path) -> None:
    """The tests of part 3 pass, also with the chat of part 4."""
    process = start(folder, "-m", "pytest", "-q")
    output, _ = process.communicate()
    assert process.returncode == 0, output
    first, last = output.splitlines()
    assert "..." in first
    assert last.startswith("3 passed in ")


@pytest.mark.parametrize("part", [4])
async def test_fourth_part_joins_servers(
    folder: Path, own_redis_server: RedisServer
) -> None:
    """Part 4 connects two servers, an endpoint and a script, and shuts down cleanly."""
    with contextlib.ExitStack() as stack:
        one, two = stack.enter_context(serving(folder, 2, own_redis_server))
        async with contextlib.AsyncExitStack() as clients:
            ada = await clients.enter_async_context(connect(f"{one}/ws/tea?name=Ada"))
            # Before the other client joins, which would get this too.
            await expect(ada, notice="Ada came in")
            bob = await clients.enter_async_context(connect(f"{two}/ws/tea?name=Bob"))
            await expect(ada, bob, notice="Bob came in")
            path = "announce/tea?text=The+tea+is+ready"
            assert await request("POST", f"http://{two}/{path}") == "null"
            await expect(ada, bob, notice="The tea is ready")
            script = ("announce.py", "tea", "Closing in five minutes")
            process = start(folder, *script, redis=own_redis_server)
            assert process.communicate()[0] == ""
            await expect(ada, bob, notice="Closing in five minutes")
            stack.close()
            for client in (ada, bob):
                with contextlib.suppress(websockets.ConnectionClosed):
                    while True:
                        await client.recv()
                assert client.close_code == 1012
