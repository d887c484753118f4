"""The chat in a browser, on two servers that share a Redis."""

import re
from collections.abc import Iterator

import pytest
from playwright.async_api import expect

from tests.chat_server import ChatServer
from tests.redis_servers.binary import ServerBinary
from tests.redis_servers.server import RedisServer, wait_until

from .conftest import Visit
from .pages import composer, expect_message, log, state, write

# All tests share a browser, and thus its event loop. It can be slow on a busy machine.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]


@pytest.fixture
def redis(redis_binary: ServerBinary) -> Iterator[RedisServer]:
    """Run a persistent Redis for one test, which can stop it."""
    with RedisServer(redis_binary, persist=True) as server:
        yield server


@pytest.fixture
def redis_layer() -> str:
    """The layer for Redis; a test can choose both."""
    return "pubsub"


@pytest.fixture
def servers(redis: RedisServer, redis_layer: str) -> Iterator[list[ChatServer]]:
    """Serve the chat on two servers."""
    # The servers start without Redis, and stop before it does.
    url = f"{redis.url}?socket_timeout=3"
    first, second = (ChatServer(url, redis_layer) for _ in range(2))
    with first, second:
        yield [first, second]


async def test_people_on_two_servers_talk(
    visit: Visit, servers: list[ChatServer], console: list[str]
) -> None:
    """People on two servers see each other join, write and leave; others do not."""
    ada = await visit("/room/talk", "Ada")
    bob = await visit("/room/talk", "Bob", server=1)
    cleo = await visit("/room/other", "Cleo", server=1)
    await expect(log(ada)).to_contain_text("Bob joined")
    await write(ada, "Hello, Bob")
    await expect_message(bob, "Ada", "Hello, Bob")
    await write(bob, "Hello, Ada")
    await write(cleo, "Nobody here?")
    await expect_message(cleo, "Cleo", "Nobody here?")
    for page in (ada, bob):
        await expect_message(page, "Bob", "Hello, Ada")
        await expect_message(page, "Ada", "Hello, Bob")
        await expect(page.locator(".own")).to_have_count(1)
    await bob.context.close()
    await expect(log(ada)).to_contain_text("Bob left")
    await expect(log(ada).get_by_role("article")).to_have_count(2)
    await expect(log(cleo).get_by_role("article")).to_have_count(1)
    assert console == []
    for server in servers:
        assert server.stop() == (0, "", "")


def both_are_back(redis: RedisServer) -> bool:
    """Return whether both servers have reconnected, to read or to subscribe."""
    subscribers = [
        one for one in redis.clients() if int(one["sub"]) or int(one["psub"])
    ]
    return len(subscribers) == 2


@pytest.mark.parametrize("redis_layer", ["queue", "pubsub"])
async def test_redis_is_stopped_and_started(
    visit: Visit, servers: list[ChatServer], redis: RedisServer
) -> None:
    """Without Redis people stay, see which messages failed, and can send them later."""
    ada = await visit("/room/outage", "Ada")
    bob = await visit("/room/outage", "Bob", server=1)
    await expect(log(ada)).to_contain_text("Bob joined")
    redis.stop()
    await write(ada, "Hello?")
    await expect(state(ada)).to_have_text("Sending…")
    await expect(composer(ada)).not_to_be_editable()
    unsent = ada.get_by_role("alert").filter(has_text="Not sent")
    await expect(unsent).to_be_visible()
    for page in (ada, bob):
        await expect(state(page)).to_have_text("Connected")
        await expect(log(page).get_by_role("article")).to_have_count(0)
    redis.start()
    # Messages that are published before that are lost.
    wait_until(lambda: both_are_back(redis), "both servers are back", 10)
    await expect(composer(ada)).to_have_value("Hello?")
    await composer(ada).press("Enter")
    await expect(unsent).to_be_hidden()
    await expect(composer(ada)).to_have_value("")
    await write(bob, "There you are")
    for page in (ada, bob):
        await expect_message(page, "Ada", "Hello?")
        await expect_message(page, "Bob", "There you are")
        await expect(log(page)).not_to_contain_text("You are back")
    for server in servers:
        code, _, stderr = server.stop()
        assert code == 0
        begins, ends = stderr.splitlines()
        assert "trying again" in begins
        assert ends.endswith(" again")


async def test_one_server_is_stopped_and_started(
    visit: Visit, servers: list[ChatServer]
) -> None:
    """People on a stopped server leave the room, and rejoin when it restarts."""
    ada = await visit("/room/back", "Ada")
    bob = await visit("/room/back", "Bob", server=1)
    await expect(log(ada)).to_contain_text("Bob joined")
    servers[1].stop()
    await expect(state(bob)).to_contain_text("Reconnecting")
    await expect(log(ada)).to_contain_text("Bob left")
    await write(ada, "Where is Bob?")
    await expect_message(ada, "Ada", "Where is Bob?")
    await expect(state(ada)).to_have_text("Connected")
    servers[1].start()
    await expect(log(bob)).to_contain_text("You are back")
    await expect(log(ada).get_by_text("Bob joined")).to_have_count(2)
    await write(ada, "Here he is")
    await write(bob, "Here I am")
    for page in (ada, bob):
        await expect_message(page, "Ada", "Here he is")
        await expect_message(page, "Bob", "Here I am")
    # He gets what was written meanwhile, and nothing twice.
    for page in (ada, bob):
        await expect(log(page).get_by_role("article")).to_have_count(3)
        await expect_message(page, "Ada", "Where is Bob?")


async def test_messages_survive(visit: Visit, servers: list[ChatServer]) -> None:
    """Messages survive a reload, a restart of all servers, and are there for others."""
    ada = await visit("/room/kept", "Ada")
    for text in ("first", "second"):
        await write(ada, text)
        await expect_message(ada, "Ada", text)
    await ada.reload()
    await expect(log(ada).get_by_role("article")).to_have_count(2)
    # She recognizes her own messages.
    await expect(ada.locator(".own")).to_have_count(2)
    for server in servers:
        server.stop()
    await expect(state(ada)).to_contain_text("Reconnecting")
    for server in servers:
        server.start()
    await expect(log(ada)).to_contain_text("You are back")
    bob = await visit("/room/kept", "Bob", server=1)
    await expect(log(bob).get_by_role("article")).to_have_count(2)
    await write(bob, "third")
    for page in (ada, bob):
        await expect_message(page, "Bob", "third")
        await expect(log(page).get_by_role("article")).to_have_count(3)
        texts = await log(page).locator(".text").all_text_contents()
        assert texts == ["first", "second", "third"]


@pytest.mark.parametrize("kind", ["server-sent events", "a WebSocket"])
async def test_answer_goes_on(
    visit: Visit, servers: list[ChatServer], kind: str
) -> None:
    """An answer goes on in a second tab, after a reload, and on another server."""
    # The first server writes the answer; the pages are connected to the second one.
    asker = await visit("/answers")
    await asker.get_by_label("Your question").fill("Why?")
    await asker.get_by_role("button", name="Ask").click()
    await expect(asker.locator("#answer")).to_contain_text("You asked: “Why?” I am")
    path = "/answers#" + asker.url.partition("#")[2]

    reader = await visit(path, server=1)
    await reader.get_by_label(kind).check()
    await expect(state(reader)).to_have_text("Connected")
    await expect(reader.locator("#answer")).to_contain_text("one by one")
    second = await reader.context.new_page()
    await second.goto(reader.url)
    await second.get_by_label(kind).check()
    await second.reload()
    servers[1].kill()
    for page in (reader, second):
        await expect(state(page)).to_contain_text("Reconnecting")
    servers[1].start()
    whole = re.compile("^You asked: .* the position of the last word. $")
    for page in (asker, reader, second):
        await expect(state(page)).to_have_text("Done")
        await expect(page.locator("#answer")).to_have_text(whole)
    texts = [
        await page.locator("#answer").text_content() for page in (asker, reader, second)
    ]
    assert texts[0] == texts[1] == texts[2]
