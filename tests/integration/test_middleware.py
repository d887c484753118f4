"""Middleware and denial with real servers and with the frameworks' middleware."""

import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.authentication import (
    AuthCredentials,
    AuthenticationBackend,
    BaseUser,
    SimpleUser,
)
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route, WebSocketRoute
from websockets import InvalidStatus
from websockets.asyncio.client import connect

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.middleware import (
    AllowedHostsOriginValidator,
    CookieMiddleware,
    OriginValidator,
    WebsocketDenier,
)
from fast_channels.type_defs import ASGIApplication

from .servers import Serve

# uvicorn's "websockets" is deprecated, but was the default for many years.
pytestmark = [
    pytest.mark.filterwarnings("ignore:The `websockets` implementation is deprecated"),
    pytest.mark.filterwarnings("ignore:websockets.legacy is deprecated"),
    pytest.mark.filterwarnings("ignore:websockets.server.WebSocketServerProtocol is"),
    pytest.mark.filterwarnings("ignore:remove second argument of ws_handler"),
    pytest.mark.filterwarnings("ignore:ConnectionClosed.(code|reason) is deprecated"),
]


class Visitor(AsyncJsonWebsocketConsumer):
    """Sends its client the data from the middleware, and denies clients without any."""

    def __init__(self, codes: list[int]) -> None:
        super().__init__()
        self.codes = codes

    async def connect(self) -> None:
        if not self.scope["cookies"]:
            challenge = [(b"www-authenticate", b"Bearer")]
            await self.deny(401, challenge, "No cookie, no café".encode())
        await self.accept()
        await self.send_json(self.scope["cookies"])

    async def disconnect(self, code: int) -> None:
        self.codes.append(code)


async def home(request: Request) -> PlainTextResponse:
    """Serve the page next to the WebSocket."""
    return PlainTextResponse(",".join(request.scope["cookies"]))


async def denied(url: str, **options: Any) -> tuple[int, bytes, str | None]:
    """Return status, body and challenge of the response to a refused connection."""
    with pytest.raises(InvalidStatus) as caught:
        await connect(url, **options)
    response = caught.value.response
    body = bytes(response.body)
    return response.status_code, body, response.headers.get("WWW-Authenticate")


def forget_the_responses(errors: list[logging.LogRecord]) -> None:
    """Drop the error that uvicorn's websockets-sansio logs for each denial."""
    # It has sent the response: https://github.com/Kludex/uvicorn/pull/3138
    message = "ASGI callable returned without completing handshake."
    errors[:] = [record for record in errors if record.getMessage() != message]


async def test_client_gets_the_reason_of_a_denial(
    serve: Serve, errors: list[logging.LogRecord]
) -> None:
    """With each server, middleware, routes and consumers can deny with a response."""
    codes: list[int] = []
    app = Starlette(
        routes=[
            Route("/", home),
            WebSocketRoute("/ws", Visitor.as_asgi(codes=codes)),
            WebSocketRoute("/gone", WebsocketDenier(410, body=b"Gone for good")),
        ],
        middleware=[
            Middleware(OriginValidator, allowed_origins=["https://example.com"]),
            Middleware(CookieMiddleware),
        ],
    )
    ours: Any = {"origin": "https://example.com"}
    async with serve(app) as address, httpx.AsyncClient() as http:
        url = f"ws://{address}/ws"
        for origin in (None, "https://evil.org", "null", "https://[::1", "https://a:b"):
            assert await denied(url, origin=origin) == (
                403,
                b"Origin not allowed",
                None,
            )
        assert codes == []
        assert await denied(url, **ours) == (
            401,
            "No cookie, no café".encode(),
            "Bearer",
        )
        assert await denied(f"ws://{address}/gone", **ours) == (
            410,
            b"Gone for good",
            None,
        )
        cookies = {"Cookie": 'a=1; b="2"; nonsense'}
        async with connect(url, additional_headers=cookies, **ours) as client:
            assert await client.recv() == '{"a": "1", "b": "2"}'
        response = await http.get(f"http://{address}/", headers=cookies)
        assert response.text == "a,b"
    # uvicorn reports 1006 for the denied connection, hypercorn for the other one.
    assert sorted(codes) == [1000, 1006]
    forget_the_responses(errors)


# Frameworks


class Member(AsyncJsonWebsocketConsumer):
    """Sends its client the name of its user."""

    async def connect(self) -> None:
        user: BaseUser = self.scope["user"]
        if not user.is_authenticated:
            return await self.deny(401)
        await self.accept()
        return await self.send_json(
            {"user": user.display_name, "session": self.scope["session"]}
        )


class Sessions(AuthenticationBackend):
    """Gets the user from the session."""

    async def authenticate(
        self, conn: HTTPConnection
    ) -> tuple[AuthCredentials, BaseUser] | None:
        name = conn.session.get("name")
        return name and (AuthCredentials(["authenticated"]), SimpleUser(name))


async def login(request: Request) -> PlainTextResponse:
    """Open a session."""
    request.session["name"] = request.query_params["name"]
    return PlainTextResponse("welcome")


MIDDLEWARE = [
    Middleware(SessionMiddleware, secret_key="secret"),  # noqa: S106 # a test
    Middleware(AuthenticationMiddleware, backend=Sessions()),
]
HOSTS = ["testserver", "127.0.0.1"]


def starlette_around_everything() -> ASGIApplication:
    return Starlette(
        routes=[Route("/login", login), WebSocketRoute("/ws", Member.as_asgi())],
        middleware=[
            Middleware(AllowedHostsOriginValidator, allowed_hosts=HOSTS),
            *MIDDLEWARE,
        ],
    )


def starlette_around_a_route() -> ASGIApplication:
    consumer = AllowedHostsOriginValidator(Member.as_asgi(), HOSTS)
    return Starlette(
        routes=[Route("/login", login), WebSocketRoute("/ws", consumer)],
        middleware=MIDDLEWARE,
    )


def starlette_in_a_route() -> ASGIApplication:
    validator = Middleware(AllowedHostsOriginValidator, allowed_hosts=HOSTS)
    consumer = WebSocketRoute("/ws", Member.as_asgi(), middleware=[validator])
    return Starlette(routes=[Route("/login", login), consumer], middleware=MIDDLEWARE)


def fastapi_around_everything() -> ASGIApplication:
    app = FastAPI()
    app.add_route("/login", login)
    app.router.add_websocket_route("/ws", Member.as_asgi())
    # The last middleware is the outermost.
    app.add_middleware(AuthenticationMiddleware, backend=Sessions())
    app.add_middleware(SessionMiddleware, secret_key="secret")  # noqa: S106 # a test
    app.add_middleware(AllowedHostsOriginValidator, allowed_hosts=HOSTS)
    return app


def around_fastapi() -> ASGIApplication:
    app = FastAPI(middleware=MIDDLEWARE)
    app.add_route("/login", login)
    app.router.add_websocket_route("/ws", Member.as_asgi())
    return AllowedHostsOriginValidator(app, HOSTS)


@pytest.mark.parametrize("server", ["uvicorn-auto"], indirect=True)
@pytest.mark.parametrize(
    "build",
    [
        starlette_around_everything,
        starlette_around_a_route,
        starlette_in_a_route,
        fastapi_around_everything,
        around_fastapi,
    ],
)
async def test_middleware_of_a_framework(
    serve: Serve,
    errors: list[logging.LogRecord],
    build: Callable[[], ASGIApplication],
) -> None:
    """A consumer has Starlette's session and user in its scope; origins are checked."""
    async with serve(build()) as address, httpx.AsyncClient() as http:
        url, ours = f"ws://{address}/ws", f"http://{address}"
        await http.get(f"{ours}/login?name=ann")
        cookie = {"Cookie": f"session={http.cookies['session']}"}
        options: Any = {"additional_headers": cookie, "origin": ours}
        async with connect(url, **options) as client:
            assert await client.recv() == '{"user": "ann", "session": {"name": "ann"}}'
        assert await denied(url, origin=ours) == (401, b"", None)
        refused = (403, b"Origin not allowed", None)
        assert await denied(url, **{**options, "origin": "https://evil.org"}) == refused
    forget_the_responses(errors)
