"""The example chat in a browser."""

import re
from collections.abc import Iterator

import pytest
from playwright.async_api import expect

from tests.chat_server import ChatServer

from .conftest import Visit
from .pages import composer, expect_message, log, state, write

# All tests share a browser, and thus its event loop. It can be slow on a busy machine.
pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]


@pytest.fixture
def no_console_errors(visit: Visit, console: list[str]) -> Iterator[None]:
    """Fail a test in which a page logs an error or a warning."""
    # Depends on visit(), to check before the server stops, which pages log.
    yield
    assert console == []


@pytest.mark.usefixtures("no_console_errors")
async def test_two_people_talk(visit: Visit) -> None:
    """Two people see each other join, write and leave."""
    ada = await visit("/room/talk", "Ada")
    bob = await visit("/room/talk", "Bob")
    await expect(ada).to_have_title("talk · fast_channels chat")
    await expect(state(ada)).to_have_text("Connected")
    await expect(log(ada)).to_contain_text("Bob joined")
    await expect(ada.get_by_text("Nobody has written here yet")).to_be_visible()
    await write(ada, "Hello, Bob")
    await write(bob, "Hello, Ada")
    for page in (ada, bob):
        await expect_message(page, "Ada", "Hello, Bob")
        await expect_message(page, "Bob", "Hello, Ada")
        await expect(page.locator(".own")).to_have_count(1)
        await expect(page.get_by_text("Nobody has written here yet")).to_be_hidden()
    await expect(log(bob)).not_to_contain_text("joined")
    await bob.context.close()
    await expect(log(ada)).to_contain_text("Bob left")


@pytest.mark.usefixtures("no_console_errors")
async def test_html_is_text(visit: Visit) -> None:
    """HTML in a message or a name is shown as text."""
    html = "<img src=x onerror=document.title='hacked'><b>bold</b>"
    name = "<i>Ada</i>"
    ada = await visit("/room/html", name)
    await write(ada, html)
    await expect_message(ada, name, html)
    await expect(log(ada).locator("img, b, i")).to_have_count(0)


@pytest.mark.usefixtures("no_console_errors")
async def test_rooms_are_isolated(visit: Visit) -> None:
    """A message is shown only in its room."""
    ada = await visit("/room/one", "Ada")
    bob = await visit("/room/other", "Bob")
    await write(ada, "for room one")
    await expect_message(ada, "Ada", "for room one")
    await write(bob, "for the other")
    await expect_message(bob, "Bob", "for the other")
    await expect(log(bob)).not_to_contain_text("for room one")
    await expect(log(ada)).not_to_contain_text("for the other")


@pytest.mark.usefixtures("no_console_errors")
async def test_name_is_kept_and_can_be_changed(visit: Visit) -> None:
    """The page asks for a name once, rejoins after a reload, and can change it."""
    ada = await visit("/room/names", "Ada")
    bob = await visit("/room/names", "Bob")
    await bob.reload()
    await expect(composer(bob)).to_be_enabled()
    await bob.get_by_role("button", name="Bob").click()
    await bob.get_by_label("Your name", exact=True).fill("  ")
    await bob.get_by_role("button", name="Change name").click()
    await expect(bob.get_by_text("Enter a name of 1 to 40")).to_be_visible()
    await bob.get_by_label("Your name", exact=True).fill("Robert")
    await bob.get_by_role("button", name="Change name").click()
    for text in ("Bob joined", "Bob left", "Robert joined"):
        await expect(log(ada).get_by_text(text).last).to_be_visible()
    await write(bob, "It is me")
    await expect_message(ada, "Robert", "It is me")


@pytest.mark.usefixtures("no_console_errors")
async def test_second_tab_is_another_person(visit: Visit) -> None:
    """A second tab begins with the same name, can change it, and both keep theirs."""
    first = await visit("/room/tabs", "Ada")
    second = await first.context.new_page()
    await second.goto(first.url)
    await write(second, "from the second tab")
    await expect_message(first, "Ada", "from the second tab")
    await expect(first.locator(".own")).to_have_count(0)
    await second.get_by_role("button", name="Ada").click()
    await second.get_by_label("Your name", exact=True).fill("Bob")
    await second.get_by_role("button", name="Change name").click()
    await expect(log(first)).to_contain_text("Bob joined")
    for page, name in ((first, "Ada"), (second, "Bob")):
        await page.reload()
        await expect(composer(page)).to_be_enabled()
        await expect(page.get_by_role("button", name=name)).to_be_visible()


@pytest.mark.usefixtures("no_console_errors")
async def test_other_rooms_can_be_opened(visit: Visit) -> None:
    """A form opens other rooms, and explains an invalid name."""
    page = await visit("/", "Ada")
    await expect(page.get_by_role("heading", level=1)).to_have_text("Lobby")
    field = page.get_by_label("Open or create a room")
    await field.fill("tea time")
    await field.press("Enter")
    await expect(page.get_by_text("Use 1 to 50 letters")).to_be_visible()
    await field.fill("tea-time_2")
    await field.press("Enter")
    await expect(page).to_have_url(re.compile(r"/room/tea-time_2$"))
    await expect(composer(page)).to_be_enabled()
    await page.get_by_role("link", name="Lobby").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("Lobby")


@pytest.mark.usefixtures("no_console_errors")
@pytest.mark.parametrize("name", ["a%2Fb", "%ff"])
async def test_bad_room_is_explained(visit: Visit, name: str) -> None:
    """The page of a room with a bad name says why, and does not reconnect."""
    page = await visit("/")
    # The test controls the timers.
    await page.clock.install()
    await page.clock.pause_at("2100-01-01")
    sockets: list[str] = []
    page.on("websocket", lambda socket: sockets.append(socket.url))
    await page.goto(page.url + f"room/{name}")
    await expect(page.get_by_text("A room name has 1 to 50 letters")).to_be_visible()
    await expect(state(page)).to_have_text("Disconnected")
    await expect(page.get_by_role("dialog")).to_be_hidden()
    await expect(composer(page)).to_be_disabled()
    await page.clock.fast_forward(60_000)
    await page.get_by_role("link", name="Go to the lobby").click()
    await expect(page.get_by_role("dialog")).to_be_visible()
    await expect(state(page)).to_have_text("Connected")
    assert [url.rpartition("/ws/")[2] for url in sockets] == [f"room/{name}", "lobby"]


@pytest.mark.usefixtures("no_console_errors")
async def test_error_is_shown_until_dismissed(visit: Visit) -> None:
    """An error from the server is shown near the composer, and can be dismissed."""
    page = await visit("/room/errors", "Ada")
    # The browser limits the length of a draft; the server checks it again.
    await composer(page).evaluate("field => field.removeAttribute('maxlength')")
    await write(page, "a" * 2001)
    error = page.get_by_role("alert").filter(has_text="A message has 1 to 2000")
    await expect(error).to_be_visible()
    await page.get_by_role("button", name="Dismiss").click()
    await expect(error).to_be_hidden()


@pytest.mark.usefixtures("no_console_errors")
async def test_reader_is_not_moved(visit: Visit) -> None:
    """The page stays scrolled up, and shows that there are new messages."""
    ada = await visit("/room/scroll", "Ada")
    bob = await visit("/room/scroll", "Bob")
    await write(ada, "first\n" + "\n".join("line" for _ in range(60)))
    await write(ada, "second")
    second = log(bob).get_by_text("second")
    await expect(second).to_be_in_viewport()
    await log(bob).evaluate("log => { log.scrollTop = 0; }")
    await write(ada, "third")
    third = log(bob).get_by_text("third")
    await expect(third).not_to_be_in_viewport()
    await bob.get_by_role("button", name="New messages").click()
    await expect(third).to_be_in_viewport()
    await expect(bob.get_by_role("button", name="New messages")).to_be_hidden()


@pytest.mark.usefixtures("no_console_errors")
@pytest.mark.parametrize("width", [320, 1600])
async def test_page_is_as_wide_as_the_window(visit: Visit, width: int) -> None:
    """Long words cause no horizontal scrolling."""
    room = f"/room/{width}".ljust(56, "w")
    page = await visit(room, "W" * 40, width=width)
    other = await visit(room, "M" * 40)
    for author in (page, other):
        await write(author, "w" * 500)
    await expect(log(page).get_by_role("article")).to_have_count(2)
    for selector in ("html", "#log"):
        left = await page.locator(selector).evaluate(
            "element => element.clientWidth - element.scrollWidth"
        )
        assert left == 0


async def test_page_reconnects(visit: Visit, server: ChatServer) -> None:
    """A page waits for a stopped server, and rejoins with its draft."""
    ada = await visit("/room/back", "Ada")
    bob = await visit("/room/back", "Bob")
    await composer(ada).fill("a draft")
    server.stop()
    for page in (ada, bob):
        await expect(state(page)).to_contain_text("Reconnecting")
        await expect(composer(page)).to_be_disabled()
    server.start()
    for page in (ada, bob):
        await expect(composer(page)).to_be_enabled()
        await expect(state(page)).to_have_text("Connected")
        await expect(log(page).get_by_text("You are back")).to_have_count(1)
    await expect(composer(ada)).to_be_focused()
    await expect(composer(ada)).to_have_value("a draft")
    await composer(ada).press("Enter")
    for page in (ada, bob):
        await expect_message(page, "Ada", "a draft")


async def test_page_reconnects_at_once_when_online(
    visit: Visit, server: ChatServer
) -> None:
    """A page that waits to reconnect does so as soon as the network is back."""
    page = await visit("/room/online", "Ada")
    await page.clock.install()
    await page.clock.pause_at("2100-01-01")
    server.stop()
    await expect(state(page)).to_contain_text("Reconnecting in 1 s")
    server.start()
    await page.evaluate("dispatchEvent(new Event('online'))")
    await expect(composer(page)).to_be_enabled()
