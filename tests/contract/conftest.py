"""Each layer in turn, closed after the test and empty then."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from typing import Protocol, Unpack

import pytest

from fast_channels.layers import BaseChannelLayer

from .backends import BACKENDS, Backend, Options, Pair


class MakePair(Protocol):
    """Makes two layers that reach one another, and nobody else."""

    async def __call__(self, **options: Unpack[Options]) -> Pair: ...


# Only these, where a kind of layer in one form shows what there is to see.
_CHOSEN = os.environ.get("FAST_CHANNELS_TEST_BACKENDS", "")
_BACKENDS = [
    backend for backend in BACKENDS if not _CHOSEN or backend.name in _CHOSEN.split(",")
]


@pytest.fixture(params=_BACKENDS, ids=lambda backend: backend.name)
def backend(request: pytest.FixtureRequest) -> Backend:
    """Give a test each kind of layer in turn."""
    chosen = request.param
    assert isinstance(chosen, Backend)
    return chosen


@pytest.fixture
async def make_pair(
    backend: Backend, request: pytest.FixtureRequest
) -> AsyncIterator[MakePair]:
    """Give a test layers with options of its choice."""
    if backend.name not in {"memory", "queue", "pub/sub"}:
        # asyncio's debug mode takes four fifths of the time of these tests, and finds
        # with one layer of a kind what it finds with all.
        asyncio.get_running_loop().set_debug(False)
    pairs: list[Pair] = []
    async with contextlib.AsyncExitStack() as stack:

        async def make_pair(**options: Unpack[Options]) -> Pair:
            processes = backend.processes(request.getfixturevalue)
            make_layer = await stack.enter_async_context(processes)
            layer, other = make_layer(**options), make_layer(**options)
            pairs.append(Pair(layer, other, backend.lanes(layer)))
            return pairs[-1]

        yield make_pair
        for pair in pairs:
            for layer in (pair.layer, pair.other):
                await layer.close()
                held = backend.held_by(layer)
                assert not any(held.values()), f"{layer!r} still holds {held}"


@pytest.fixture
async def pair(make_pair: MakePair) -> Pair:
    """Give a test two layers with the default options."""
    return await make_pair()


@pytest.fixture
def layer(pair: Pair) -> BaseChannelLayer:
    """Give a test the layer that receives."""
    return pair.layer


@pytest.fixture
def other(pair: Pair) -> BaseChannelLayer:
    """Give a test the layer that sends, as if from another process."""
    return pair.other
