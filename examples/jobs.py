"""Background jobs: a page starts a job, and receives its progress.

The job gets the ``channel_name`` of the page's consumer, and sends to that channel. So
it can run anywhere: as a task in this process or, with REDIS_URL, in an ARQ worker::

    arq examples.arq_worker.WorkerSettings

The page sends ``{"type": "start", "title": "Sales"}``, and gets

    {"type": "queued", "job": "5f0c", "title": "Sales", "where": "server"}
    {"type": "progress", "job": "5f0c", "percent": 5}, and so on up to 100
"""

import asyncio
import secrets
from importlib.util import find_spec
from typing import Any

from fastapi import APIRouter

from fast_channels.type_defs import ChannelMessage

from .answering import AnsweringConsumer
from .layers import redis_url
from .reports import DONE, make_report

TITLE_LENGTH = 60
JOBS_AT_ONCE = 5


def runs_in_worker() -> bool:
    """Return whether a worker runs the jobs: with Redis, if arq is installed."""
    return redis_url() is not None and find_spec("arq") is not None


class Jobs(AnsweringConsumer):
    """A page that starts jobs."""

    channel_layer_alias = "queue"

    async def connect(self) -> None:
        # By job; a job in a worker has no task here.
        self.tasks: dict[str, asyncio.Task[None] | None] = {}
        await self.accept()

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        match content:
            case {"type": "start", "title": str(title)}:
                await self.start(title.strip())
            case _:
                raise ValueError("Expected a 'start' with a title.")

    async def start(self, title: str) -> None:
        """Start a job, here or in a worker."""
        if not 1 <= len(title) <= TITLE_LENGTH:
            raise ValueError(f"A title has 1 to {TITLE_LENGTH} characters.")
        if len(self.tasks) >= JOBS_AT_ONCE:
            raise ValueError(f"{JOBS_AT_ONCE} jobs are running. Wait for one to end.")
        job = secrets.token_hex(4)
        if runs_in_worker():
            from .arq_worker import enqueue  # noqa: PLC0415 # it needs arq

            await enqueue(self.channel_name, job)
            self.tasks[job] = None
        else:
            report = make_report(self.channel_name, job)
            self.tasks[job] = asyncio.create_task(report)
        where = "worker" if self.tasks[job] is None else "server"
        answer = {"type": "queued", "job": job, "title": title, "where": where}
        await self.send_json(answer)

    async def job_progress(self, event: ChannelMessage) -> None:
        """Handle a message from ``make_report()``."""
        job, percent = event["job"], event["percent"]
        if percent == DONE:
            self.tasks.pop(job, None)
        await self.send_json({"type": "progress", "job": job, "percent": percent})

    async def disconnect(self, code: int) -> None:
        """Cancel the jobs in this process; those in a worker continue."""
        tasks = [task for task in self.tasks.values() if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


router = APIRouter()
router.add_websocket_route("/ws/jobs", Jobs.as_asgi())
