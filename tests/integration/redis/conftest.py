"""Fixtures for tests of the layers for Redis."""

import asyncio

import pytest


@pytest.fixture(autouse=True)
async def no_debug_mode() -> None:
    """Turn off asyncio's debug mode, which slows down tests with many commands."""
    asyncio.get_running_loop().set_debug(False)
