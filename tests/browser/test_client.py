"""The client for browsers: reconnecting, resuming, and the end."""

import asyncio
import re
from collections.abc import AsyncGenerator
from typing import Any
from urllib.parse import parse_qs

import pytest
import pytest_asyncio
from fastapi import FastAPI
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from playwright.async_api import Browser, Page

from fast_channels.consumer import AsyncJsonWebsocketConsumer
from fast_channels.exceptions import DenyConnection
from fast_channels.layers import GroupMessage, History, InMemoryChannelLayer
from fast_channels.layers import register_channel_layer as register
from tests.integration.servers import serving
from tests.waiting import until

# All tests share a browser, and thus its event loop. It can be slow on a busy machine.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

# Collects the events of a socket in the page.
OPEN = """async ([url, options, body]) => {
  const { ChannelSocket } = await import("/client/fast-channels.js");
  const extra = new Function("window", `return {${body}}`)(window);
  const at = extra.url ?? url;
  delete extra.url;
  window.events = [];
  const delays = { minDelay: 20, maxDelay: 80 };
  window.socket = new ChannelSocket(at, { ...delays, ...options, ...extra });
  const note = (event) => {
    const { data, lastEventId, code, reason, delay } = event;
    window.events.push({ type: event.type, data, lastEventId, code, reason, delay });
  };
  for (const type of ["open", "message", "error", "close"]) {
    window.socket.addEventListener(type, note);
  }
}"""


class Room(AsyncJsonWebsocketConsumer):
    """Resumes, and closes when a test sends ``shut``."""

    channel_layer_alias = "default"
    # Apart from the room, whose history must have only its texts.
    groups = ["orders"]
    addresses: list[dict[str, list[str]]] = []
    ended = 0
    refuses = False
    greets_with: int | None = None

    async def connect(self) -> None:
        query = parse_qs(self.scope["query_string"].decode())
        self.addresses.append(query)
        if Room.refuses:
            raise DenyConnection
        await self.accept()
        if Room.greets_with is not None:
            await self.close(Room.greets_with, "as told")
            return
        (since,) = query.get("since", [None])
        resumed = await self.join_group("room", since=since)
        if not resumed.replayed:
            await self.send_json({"position": resumed.position})

    async def disconnect(self, code: int) -> None:
        Room.ended += 1

    async def receive_json(self, content: Any, **kwargs: Any) -> None:
        await self.send_json({"echo": content})

    async def text(self, event: GroupMessage) -> None:
        await self.send_json({"text": event["text"], "position": event.position})

    async def shut(self, event: dict[str, Any]) -> None:
        await self.close(event["code"], "as told")


class Client:
    """A page with a socket, and the server that it is connected to."""

    def __init__(self, page: Page, layer: InMemoryChannelLayer) -> None:
        self.page = page
        self.layer = layer

    async def open(self, body: str = "", **options: Any) -> None:
        await self.page.evaluate(OPEN, ["/ws", options, body])

    async def events(self, *types: str) -> list[dict[str, Any]]:
        events: list[dict[str, Any]] = await self.page.evaluate("events")
        return [event for event in events if not types or event["type"] in types]

    async def wait_for(self, condition: str) -> None:
        await self.page.wait_for_function(f"() => {condition}")

    async def wait_for_count(self, kind: str, count: int) -> None:
        await self.wait_for(
            f"events.filter(e => e.type === '{kind}').length >= {count}"
        )

    async def joined(self, times: int = 1) -> None:
        await self.wait_for_count("open", times)
        await until(lambda: self.layer.groups.get("room"), pause=0.01)

    async def write(self, *texts: str) -> None:
        for text in texts:
            await self.layer.group_send("room", {"type": "text", "text": text})

    async def shut(self, code: int) -> None:
        before = Room.ended
        await self.layer.group_send("orders", {"type": "shut", "code": code})
        await until(lambda: Room.ended > before, pause=0.01)

    async def texts(self) -> list[str]:
        found = [
            re.search(r'"text": ?"(\w+)"', event["data"])
            for event in await self.events("message")
        ]
        return [match[1] for match in found if match is not None]


@pytest_asyncio.fixture(loop_scope="session")
async def client(browser: Browser) -> AsyncGenerator[Client]:
    layer = InMemoryChannelLayer(history={"room": History()})
    register("default", layer)
    Room.addresses, Room.refuses, Room.greets_with = [], False, None
    app = FastAPI()
    app.mount("/client", StaticFiles(packages=["fast_channels"]))
    app.router.add_websocket_route("/ws", Room.as_asgi())

    @app.get("/", response_class=HTMLResponse)
    async def blank() -> str:  # pyright: ignore[reportUnusedFunction] # a route
        return "<title>blank</title>"

    async with serving(app, "uvicorn-auto") as address:
        context = await browser.new_context()
        page = await context.new_page()
        await page.goto(f"http://{address}/")
        yield Client(page, layer)
        await context.close()


async def test_resuming(client: Client) -> None:
    """What is sent while a page is away arrives once, in order, when it is back."""
    await client.open()
    await client.joined()
    await client.write("one")
    await client.wait_for_count("message", 2)
    await client.page.evaluate("socket.send('{\"a\": 1}')")
    await client.wait_for("events.some(e => e.data?.includes('echo'))")
    for number, texts in enumerate([("two", "three"), ("four",), ()], start=2):
        await client.shut(1012)
        await client.write(*texts)
        await client.joined(number)
    await client.write("five")
    await client.wait_for("events.some(e => e.data?.includes('five'))")
    assert await client.texts() == ["one", "two", "three", "four", "five"]
    position = (await client.layer.group_history("room")).position
    assert await client.page.evaluate("socket.position") == position
    last = (await client.events("message"))[-1]
    assert last["lastEventId"] == position
    assert [error["code"] for error in await client.events("error")] == [1012] * 3
    # The first address had no position, since there was none yet.
    assert [bool(query) for query in Room.addresses] == [False, True, True, True]


async def test_position_from_before_a_reload(client: Client) -> None:
    """A page can begin at a position that it has stored."""
    await client.write("one", "two")
    (first, _) = await client.layer.group_history("room")
    await client.open(since=first.position)
    await client.wait_for_count("message", 1)
    assert await client.texts() == ["two"]


async def test_backoff(client: Client) -> None:
    """Attempts become rarer, at random times, until one succeeds."""
    Room.refuses = True
    await client.open()
    await client.wait_for_count("error", 5)
    Room.refuses = False
    await client.joined()
    errors = await client.events("error")
    for error, longest in zip(errors, [20, 40, 80, 80, 80], strict=False):
        assert longest / 2 <= error["delay"] <= longest
        assert error["code"] == 1006
    assert len({error["delay"] for error in errors}) > 1
    # A success resets the delay.
    await client.wait_for_count("message", 1)
    await client.shut(1012)
    await client.joined(2)
    assert (await client.events("error"))[-1]["delay"] <= 20


@pytest.mark.parametrize("code", [1000, 4000, 4400, 4999])
async def test_final_end(client: Client, code: int) -> None:
    """The server can end a connection for good, with a reason."""
    await client.open()
    await client.joined()
    await client.shut(code)
    await client.wait_for_count("close", 1)
    last = (await client.events())[-1]
    assert (last["type"], last["code"], last["reason"]) == ("close", code, "as told")
    assert await client.page.evaluate("socket.readyState") == 2
    assert await client.page.evaluate("socket.send('lost')") is False
    await client.page.evaluate("socket.reconnect()")
    await client.page.evaluate("window.dispatchEvent(new Event('online'))")
    await asyncio.sleep(0.2)
    assert len(Room.addresses) == 1


async def test_renewal(client: Client) -> None:
    """After 4401 the page gets a new session, and then it reconnects and resumes."""
    await client.open(
        "renew: async () => { window.renewals = (window.renewals ?? 0) + 1 }"
    )
    await client.joined()
    await client.shut(4401)
    await client.write("missed")
    await client.joined(2)
    await client.wait_for("events.some(e => e.data?.includes('missed'))")
    assert await client.page.evaluate("renewals") == 1
    assert await client.events("error", "close") == []
    # A server that refuses the new session as well is not asked all the time.
    Room.greets_with = 4401
    await client.shut(4401)
    await client.wait_for_count("error", 2)
    assert {error["code"] for error in await client.events("error")} == {4401}


@pytest.mark.parametrize(
    "renew",
    ["", "renew: () => false", "renew: async () => { throw new Error('expired') }"],
)
async def test_session_that_is_not_renewed(client: Client, renew: str) -> None:
    """Without a new session, 4401 ends the connection for good."""
    await client.open(renew)
    await client.joined()
    await client.shut(4401)
    await client.wait_for_count("close", 1)
    (close,) = await client.events("close")
    assert close["code"] == 4401
    assert close["reason"] == ("Error: expired" if "throw" in renew else "as told")


async def test_closing_and_reconnecting(client: Client) -> None:
    """A page can reconnect at any time, and end the connection."""
    await client.open()
    await client.joined()
    await client.page.evaluate("socket.reconnect()")
    await client.joined(2)
    assert await client.page.evaluate("socket.send('1')") is True
    await client.page.evaluate("(socket.close(), socket.close())")
    await until(lambda: not client.layer.groups, pause=0.01)
    assert await client.page.evaluate("socket.readyState") == 2
    assert await client.events("error", "close") == []
    assert len(Room.addresses) == 2


@pytest.mark.parametrize(
    "event",
    [
        "window.dispatchEvent(new Event('online'))",
        "document.dispatchEvent(new Event('visibilitychange'))",
    ],
)
async def test_page_that_is_needed_again(client: Client, event: str) -> None:
    """When the network is back, or the page is shown again, it does not wait."""
    Room.refuses = True
    await client.open(minDelay=3_600_000, maxDelay=3_600_000)
    await client.wait_for_count("error", 1)
    Room.refuses = False
    await client.page.evaluate(event)
    await client.joined()
    # It has no effect on a connection that is open.
    await client.page.evaluate(event)
    await client.write("one")
    await client.wait_for("events.some(e => e.data?.includes('one'))")
    assert len(Room.addresses) == 2


async def test_address_from_a_function(client: Client) -> None:
    """A function gives the address of each attempt, with a token for example."""
    await client.open(
        "url: async (position) => `/ws?token=${position}`, parameter: null"
    )
    await client.joined()
    await client.wait_for_count("message", 1)
    await client.shut(1012)
    await client.joined(2)
    position = await client.page.evaluate("socket.position")
    assert Room.addresses == [{"token": ["null"]}, {"token": [position]}]


async def test_function_that_fails(client: Client) -> None:
    """An address that cannot be had counts as an attempt."""
    url = "url: () => { if (window.ready) return '/ws'; throw new Error('offline') }"
    await client.open(url)
    await client.wait_for_count("error", 2)
    await client.page.evaluate("window.ready = true")
    await client.joined()
    assert (await client.events("error"))[0]["reason"] == "Error: offline"


async def test_handlers_and_other_messages(client: Client) -> None:
    """Handlers are called too, and messages need not be JSON."""
    await client.open("positionOf: (data) => data.length.toString()")
    note = "() => { socket.onmessage = (e) => { window.last = e.lastEventId } }"
    await client.page.evaluate(note)
    await client.joined()
    # The first message can come before the handler is set.
    await client.write("later")
    await client.wait_for("window.last !== undefined")
    assert int(await client.page.evaluate("last")) > 10
    await client.open(positionOf=None)
    await client.wait_for_count("message", 1)
    assert await client.page.evaluate("socket.position") is None
