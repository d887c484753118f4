"""The served chat, and browsers that use it."""

import os
import shutil
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from typing import TypeAlias

import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright, expect

from tests.chat_server import ChatServer

__all__ = ["Visit"]

Visit: TypeAlias = Callable[..., Awaitable[Page]]
"""``visit(path, name="", width=1280, server=0)`` opens a page of one of the servers, in
a new browser profile."""

expect.set_options(timeout=30_000)
_CHROMIUMS = ("chromium", "chromium-browser", "google-chrome")


@pytest.fixture(scope="session")
def chromium() -> str:
    """Find Chromium, or fail with a line that says how to install it."""
    named = os.environ.get("FAST_CHANNELS_TEST_CHROMIUM")
    for name in (named,) if named else _CHROMIUMS:
        if path := shutil.which(name):
            return path
    pytest.fail(
        f"no Chromium found, looked for {named or ', '.join(_CHROMIUMS)}: "
        "apt-get install chromium, or name one in FAST_CHANNELS_TEST_CHROMIUM",
        pytrace=False,
    )


@pytest.fixture(scope="session")
def server() -> Iterator[ChatServer]:
    """Serve the application in memory; a test that stops it restarts it."""
    with ChatServer() as server:
        yield server


@pytest.fixture
def servers(server: ChatServer) -> list[ChatServer]:
    """Give tests the shared server; a module can override this with its own servers."""
    return [server]


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser(chromium: str) -> AsyncGenerator[Browser]:
    """Run a browser for all tests, in their shared event loop."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=arguments
        )
        yield browser
        await browser.close()


@pytest.fixture
def console() -> list[str]:
    """Collect the errors and warnings of all pages."""
    return []


@pytest_asyncio.fixture(loop_scope="session")
async def visit(
    browser: Browser, servers: list[ChatServer], console: list[str]
) -> AsyncGenerator[Visit]:
    """Open pages, each in its own profile; with a name, join the room."""
    contexts: list[BrowserContext] = []

    async def visit(
        path: str, name: str = "", width: int = 1280, server: int = 0
    ) -> Page:
        context = await browser.new_context(viewport={"width": width, "height": 800})
        contexts.append(context)
        page = await context.new_page()
        page.on(
            "console",
            lambda message: (
                console.append(message.text)
                if message.type in {"error", "warning"}
                else None
            ),
        )
        page.on("pageerror", lambda error: console.append(str(error)))
        await page.goto(servers[server].url + path)
        if name:
            await page.get_by_label("Your name", exact=True).fill(name)
            await page.get_by_role("button", name="Join the chat").click()
            await expect(page.get_by_label("Message", exact=True)).to_be_enabled()
        return page

    yield visit
    for context in contexts:
        await context.close()
