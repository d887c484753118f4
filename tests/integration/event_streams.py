"""Applications whose endpoints stream the messages of a group, in several ways."""

import importlib.util
from collections.abc import AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import FastAPI, Header
from fastapi.responses import StreamingResponse
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware, RequestResponseEndpoint
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from fast_channels.consumer import AsyncEventStreamConsumer
from fast_channels.layers import GroupMessage, get_channel_layer
from fast_channels.lifespan import channels_lifespan
from fast_channels.sse import EventStreamResponse, ServerSentEvent
from fast_channels.type_defs import ASGIApplication

__all__ = ["BUILDS", "with_a_consumer"]


class Events(AsyncEventStreamConsumer):
    channel_layer_alias = "default"

    async def handle(self, body: bytes) -> None:
        resumed = await self.join_group("room", since=self.last_event_id)
        if not resumed.replayed:
            await self.send_event(id=resumed.position)

    async def text(self, event: GroupMessage) -> None:
        await self.send_event(event["text"], id=event.position)


async def events(since: str | None) -> AsyncIterator[ServerSentEvent]:
    layer = get_channel_layer()
    assert layer is not None
    async with layer.listen("room", since=since) as messages:
        yield ServerSentEvent(id=messages.position)
        async for message in messages:
            yield ServerSentEvent(message["text"], id=messages.position)


async def untouched(request: Request, call_next: RequestResponseEndpoint) -> Response:
    """Pass the request and response on unchanged."""
    return await call_next(request)


async def endpoint(request: Request) -> Response:
    return EventStreamResponse(events(request.headers.get("last-event-id")))


def with_fastapi() -> ASGIApplication:
    app = FastAPI(lifespan=channels_lifespan())

    @app.get("/")
    async def get(  # pyright: ignore[reportUnusedFunction] # a route
        last_event_id: Annotated[str | None, Header()] = None,
    ) -> EventStreamResponse:
        return EventStreamResponse(events(last_event_id))

    return app


def with_starlette() -> ASGIApplication:
    return Starlette(routes=[Route("/", endpoint)], lifespan=channels_lifespan())


def behind_middleware() -> ASGIApplication:
    return Starlette(
        routes=[Route("/", endpoint)],
        middleware=[Middleware(BaseHTTPMiddleware, dispatch=untouched)],
        lifespan=channels_lifespan(),
    )


def with_a_consumer() -> ASGIApplication:
    routes = [Route("/", Events.as_asgi())]
    return Starlette(routes=routes, lifespan=channels_lifespan())


def with_a_response_of_starlette() -> ASGIApplication:
    async def parts(since: str | None) -> AsyncIterator[bytes]:
        async for event in events(since):
            yield event.encode()

    async def get(request: Request) -> Response:
        body = parts(request.headers.get("last-event-id"))
        return StreamingResponse(body, media_type="text/event-stream")

    return Starlette(routes=[Route("/", get)], lifespan=channels_lifespan())


BUILDS: list[Callable[[], ASGIApplication]] = [
    with_fastapi,
    with_starlette,
    behind_middleware,
    with_a_consumer,
    with_a_response_of_starlette,
]
"""The applications, each with the stream at ``/``."""

if importlib.util.find_spec("fastapi.sse") is not None:

    def with_the_events_of_fastapi() -> ASGIApplication:
        # FastAPI 0.135 or newer.
        from fastapi.sse import EventSourceResponse  # noqa: PLC0415
        from fastapi.sse import ServerSentEvent as Event  # noqa: PLC0415

        app = FastAPI(lifespan=channels_lifespan())

        @app.get("/", response_class=EventSourceResponse)
        async def get(  # pyright: ignore[reportUnusedFunction] # a route
            last_event_id: Annotated[str | None, Header()] = None,
        ) -> AsyncIterator[Any]:
            async for event in events(last_event_id):
                yield Event(raw_data=event.data, id=event.id)

        return app

    BUILDS.append(with_the_events_of_fastapi)
