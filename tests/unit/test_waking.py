"""Futures that no task waits for."""

import asyncio
import gc

import pytest

from fast_channels.waking import ignore_error


@pytest.mark.parametrize("end", ["error", "result", "cancelled"])
async def test_error_of_a_future_is_ignored(
    end: str, caplog: pytest.LogCaptureFixture
) -> None:
    """An error that no task retrieves is not logged by asyncio."""
    # What earlier tests have left.
    gc.collect()
    caplog.clear()
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(ignore_error)
    if end == "error":
        future.set_exception(OSError("lost"))
    elif end == "result":
        future.set_result(None)
    else:
        future.cancel()
    await asyncio.sleep(0)
    del future
    gc.collect()
    assert caplog.messages == []
