"""A worker of ARQ for the jobs: ``arq examples.arq_worker.WorkerSettings``.

It needs REDIS_URL and ``pip install -e '.[examples-worker]'``, which installs ARQ and a
redis-py before 6, as ARQ requires.
"""

# arq is not installed where types are checked, as it requires an old redis-py.
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
    """Return the Redis of the job queue, or fail at once if REDIS_URL is not set."""
    url = redis_url()
    if url is None:
        raise SystemExit("Set REDIS_URL, to that of the server: jobs wait in Redis.")
    return replace(RedisSettings.from_dsn(url), conn_retries=0)


async def enqueue(channel: str, job: str) -> None:
    """Queue a job for a worker."""
    # redis-py raises OSError for some failures, and its own exceptions for others.
    try:
        pool = await create_pool(settings())
        try:
            await pool.enqueue_job("make_report", channel, job, _job_id=job)
        finally:
            await pool.aclose()
    except (OSError, RedisError) as exc:
        raise RedisUnavailable(f"the job was not queued: {exc}") from exc


async def make_report(context: dict[str, Any], channel: str, job: str) -> None:
    """Run a job."""
    await reports.make_report(channel, job)


async def startup(context: dict[str, Any]) -> None:
    """Register the layers, through which jobs report their progress."""
    setup_layers()


class WorkerSettings:
    """The settings for the command ``arq``."""

    functions: ClassVar = [make_report]
    on_startup = startup
    redis_settings = settings()
