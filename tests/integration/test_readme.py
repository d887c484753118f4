"""The code in README.rst runs as it stands."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from sybil import Sybil
from sybil.parsers.rest import PythonCodeBlockParser

from fast_channels.layers import RedisChannelLayer, get_channel_layer
from tests.redis_servers.server import RedisServer

_README = Path(__file__).parents[2] / "README.rst"


@pytest.fixture
def namespace(redis_server: RedisServer, tmp_path: Path) -> dict[str, Any]:
    """Run the code, on the Redis of the tests, and return what it defines."""
    readme = tmp_path / "README.rst"
    here = f"{redis_server.host}:{redis_server.port}"
    readme.write_text(_README.read_text().replace("localhost:6379", here))
    document = Sybil(parsers=[PythonCodeBlockParser()], path=str(tmp_path)).parse(
        readme
    )
    for example in document.examples():
        example.evaluate()
    return document.namespace


async def test_readme_test_passes(namespace: dict[str, Any]) -> None:
    """The test that README.rst shows passes on the chat that it shows."""
    await namespace["test_a_message_reaches_everybody_in_the_room"]()


async def test_readme_script_reaches_the_group(namespace: dict[str, Any]) -> None:
    """What README.rst sends from a script and a task reaches another process."""
    layer = get_channel_layer()
    assert isinstance(layer, RedisChannelLayer)
    async with layer:
        channel = await layer.new_channel()
        await layer.group_add("room.lobby", channel)
        await asyncio.to_thread(asyncio.run, namespace["announce"]("from a script"))
        await asyncio.to_thread(namespace["announce_from_a_task"], "from a task")
        texts = [(await layer.receive(channel))["text"] for _ in range(2)]
    assert texts == ["from a script", "from a task"]
