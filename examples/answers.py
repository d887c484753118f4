"""Answers that are written word by word, for every page that shows them.

An answer is a group with a history. One task sends its words to the group; a page gets
those that are there, and then those that follow. It does not matter when it begins to
listen, how often it loses its connection, and which server it comes back to.

A page asks with ``POST /answers``, and listens in one of two ways:

* ``EventSource("/answers/5f0c/events")``, which resumes by itself: the browser sends
  the position of its last event in ``Last-Event-ID``;
* a WebSocket at ``/ws/answers/5f0c?since=0f6b9ad2.17``.

Both get the words as ``{"text": "Hello "}``, and ``{"again": true}`` where the answer
begins anew, since something is missing. Then the event stream has an event of the type
``"done"``, and the WebSocket is closed with code 1000.
"""

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any
from urllib.parse import parse_qs

from fastapi import APIRouter, Header, HTTPException
from pydantic import BaseModel, Field

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import StopConsumer
from fast_channels.layers import GroupMessage, channel_layers
from fast_channels.layers.redis import RedisUnavailable
from fast_channels.sse import EventStreamResponse, ServerSentEvent

# Seconds between two words.
SECONDS = 0.1
UNKNOWN = 4404
# More than any answer has, and not more than the layer keeps.
WORDS = 1000

_writing: set[asyncio.Task[None]] = set()


class Question(BaseModel):
    text: str = Field(min_length=1, max_length=200)


async def words(question: str) -> AsyncIterator[str]:
    """Yield an answer word by word, as a language model does."""
    answer = (
        f"You asked: “{question}” I am not a model, so I answer everything with the "
        "same words. They are sent to a group of a channel layer, one by one, and the "
        "group has a history. Reload this page, open it in a second tab, switch to the "
        "other kind of connection, or restart the server that sends it to you: the "
        "answer goes on where it was, without a gap and without a word twice. All that "
        "your browser keeps is the position of the last word."
    )
    for word in answer.split():
        await asyncio.sleep(SECONDS)
        yield f"{word} "


async def write(group: str, question: str) -> None:
    """Send an answer to its group, until it is complete or the server stops."""
    layer = channel_layers["answers"]
    # Without Redis, the answer ends here.
    with contextlib.suppress(RedisUnavailable):
        try:
            async for word in words(question):
                await layer.group_send(group, {"type": "answer.text", "text": word})
        finally:
            await layer.group_send(group, {"type": "answer.done"})


@contextlib.asynccontextmanager
async def writing() -> AsyncGenerator[None]:
    """Stop writing when the server stops."""
    yield
    for task in _writing:
        task.cancel()
    await asyncio.gather(*_writing, return_exceptions=True)


router = APIRouter()


@router.post("/answers", status_code=202)
async def ask(question: Question) -> dict[str, str]:
    answer = secrets.token_hex(8)
    group = f"answer.{answer}"
    # From here on the answer is known, to all servers.
    start = {"type": "answer.text", "text": ""}
    await channel_layers["answers"].group_send(group, start)
    task = asyncio.create_task(write(group, question.text))
    task.add_done_callback(_writing.discard)
    _writing.add(task)
    return {"answer": answer}


# Server-sent events


@router.get("/answers/{answer}/events")
async def events(
    answer: str, last_event_id: Annotated[str | None, Header()] = None
) -> EventStreamResponse:
    if not await exists(answer):
        raise HTTPException(404)
    return EventStreamResponse(stream(f"answer.{answer}", last_event_id))


async def stream(group: str, since: str | None) -> AsyncIterator[ServerSentEvent]:
    layer = channel_layers["answers"]
    async with layer.listen(group, since=since, last=WORDS) as messages:
        if not messages.complete:
            yield ServerSentEvent({"again": True})
        async for message in messages:
            if message["type"] == "group.gap":
                # The browser reconnects, and resumes from its last event.
                return
            if message["type"] == "answer.done":
                yield ServerSentEvent("", event="done", id=messages.position)
                return
            yield ServerSentEvent({"text": message["text"]}, id=messages.position)


async def exists(answer: str) -> bool:
    group = f"answer.{answer}"
    try:
        return bool(await channel_layers["answers"].group_history(group, limit=1))
    except TypeError:
        # Not the name of a group.
        return False


# WebSockets


class Answer(AsyncJsonWebsocketConsumer):
    """A page that shows an answer."""

    channel_layer_alias = "answers"

    async def connect(self) -> None:
        answer = str(self.scope["path_params"]["answer"])
        await self.accept()
        if not await exists(answer):
            await self.close(UNKNOWN, "There is no such answer.")
            raise StopConsumer
        query = parse_qs(self.scope["query_string"].decode())
        (since,) = query.get("since", [None])[-1:]
        self.group = f"answer.{answer}"
        await self.resume(since)

    async def resume(self, since: str | None) -> None:
        resumed = await self.join_group(self.group, since=since, last=WORDS)
        if not resumed.complete:
            await self.send_json({"again": True})

    async def answer_text(self, event: GroupMessage) -> None:
        await self.send_json({"text": event["text"], "position": event.position})

    async def answer_done(self, event: GroupMessage) -> None:
        await self.close()

    async def group_gap(self, event: dict[str, Any]) -> None:
        await self.resume(event["position"])


router.add_websocket_route("/ws/answers/{answer}", Answer.as_asgi())
