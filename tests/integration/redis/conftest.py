"""What the tests of the layers for Redis share."""

import asyncio

import pytest


@pytest.fixture(autouse=True)
async def no_debug_mode() -> None:
    """Switch asyncio's debug mode off, which slows down what has many commands."""
    asyncio.get_running_loop().set_debug(False)
