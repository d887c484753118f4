"""A worker of ARQ for the jobs: ``arq examples.arq_worker.WorkerSettings``.

It needs REDIS_URL, and ``pip install -e '.[examples-worker]'``: that has ARQ, and the
redis-py before 6 that ARQ needs.
"""

# arq is not installed where types are checked: it holds redis-py back.
# mypy: disable-error-code="import-not-found, import-untyped"
# pyright: basic, reportMissingImports=false

from dataclasses import replace
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import RedisSettings
from redis.exceptions import RedisError

from fast_channels.layers.redis import RedisUnavailable

from . import reports
from .layers import redis_url, setup_layers


def settings() -> Any:
    """Return where the jobs wait; without Redis that is said at once."""
    url = redis_url()
    if url is None:
        raise SystemExit("Set REDIS_URL, to that of the server: jobs wait in Redis.")
    return replace(RedisSettings.from_dsn(url), conn_retries=0)


async def enqueue(channel: str, job: str) -> None:
    """Leave a job to a worker."""
    # redis-py's exceptions are OSErrors for some failures, and its own for others.
    try:
        pool = await create_pool(settings())
        try:
            await pool.enqueue_job("make_report", channel, job, _job_id=job)
        finally:
            await pool.aclose()
    except (OSError, RedisError) as exc:
        raise RedisUnavailable(f"the job was not queued: {exc}") from exc


async def make_report(context: dict[str, Any], channel: str, job: str) -> None:
    """Do a job."""
    await reports.make_report(channel, job)


async def startup(context: dict[str, Any]) -> None:
    """Register the layers, through which the jobs tell how far they are."""
    setup_layers()


class WorkerSettings:
    """What the command ``arq`` reads."""

    functions: ClassVar = [make_report]
    on_startup = startup
    redis_settings = settings()
