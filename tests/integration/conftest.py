"""Fixtures for tests with real servers."""

import logging
from collections.abc import Iterator

import pytest

from fast_channels.layers import InMemoryChannelLayer, register_channel_layer

from .servers import SERVERS, Serve, serving


class _Collector(logging.Handler):
    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture
def layer() -> Iterator[InMemoryChannelLayer]:
    """Register a layer as "default", and check that it is empty after the test."""
    layer = InMemoryChannelLayer()
    register_channel_layer("default", layer)
    yield layer
    assert layer.groups == {}
    assert layer.channels == {}


@pytest.fixture
def errors() -> Iterator[list[logging.LogRecord]]:
    """Collect logged errors; the test fails if it leaves any in the list."""
    handler = _Collector(logging.ERROR)
    logging.getLogger().addHandler(handler)
    yield handler.records
    logging.getLogger().removeHandler(handler)
    assert handler.records == []


@pytest.fixture(params=SERVERS)
def server(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Give a test the name of each server in turn."""
    monkeypatch.setenv("NO_PROXY", "*")
    name: str = request.param
    return name


@pytest.fixture
def serve(
    server: str,
    layer: InMemoryChannelLayer,
    errors: list[logging.LogRecord],
) -> Serve:
    """Serve applications with each server in turn."""
    return lambda application: serving(application, server)
