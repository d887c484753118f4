"""The other parts of the application in a browser."""

import re
from collections.abc import Iterator

import pytest
from playwright.async_api import Page, expect

from .conftest import Visit
from .pages import state

# All tests share a browser, and thus its event loop. It can be slow on a busy machine.
pytestmark = [
    pytest.mark.asyncio(loop_scope="session"),
    pytest.mark.timeout(180),
    pytest.mark.usefixtures("no_console_errors"),
]


@pytest.fixture
def no_console_errors(visit: Visit, console: list[str]) -> Iterator[None]:
    """Fail a test in which a page logs an error or a warning."""
    # Depends on visit(), to check before the server stops, which pages log.
    yield
    assert console == []


async def press(page: Page, *keys: str) -> None:
    for key in keys:
        await page.keyboard.press(key)


async def expect_to_fit(page: Page) -> None:
    """Expect no horizontal scrolling."""
    room = "document.documentElement.clientWidth - document.documentElement.scrollWidth"
    assert await page.evaluate(room) == 0


@pytest.mark.parametrize("width", [360, 1280])
async def test_every_part_in_turn(visit: Visit, width: int) -> None:
    """Each part has links to the others, and works as described."""
    page = await visit("/", "Ada", width=width)
    parts = page.get_by_role("navigation", name="Examples")

    await parts.get_by_role("link", name="System").click()
    await expect(page.get_by_role("heading", level=1)).to_have_text("System messages")
    messages = page.get_by_role("log").get_by_role("listitem")
    await expect(messages).to_have_text(re.compile("The connection is open"))
    await page.get_by_label("Your text").fill("<b>hello</b>")
    await press(page, "Enter")
    await expect(messages.nth(1)).to_have_text("You wrote: <b>hello</b>")
    await expect_to_fit(page)

    await parts.get_by_role("link", name="Jobs").click()
    await expect(state(page)).to_have_text("Connected")
    field = page.get_by_label("Name of the report")
    await field.fill(" ")
    await press(page, "Enter")
    await expect(page.get_by_text("Enter a name of 1 to 60")).to_be_visible()
    await field.fill("w" * 60)
    await press(page, "Tab", "Enter")
    bar = page.get_by_role("progressbar", name="Progress of " + "w" * 60)
    await expect(bar).to_have_attribute("value", re.compile("5|10|15"))
    await expect_to_fit(page)
    # Checked again below: by then the job is done, or soon will be.

    other = await page.context.new_page()
    await other.goto(page.url.replace("jobs", "notifications"))
    await expect(state(other)).to_have_text("Connected")
    await other.get_by_label("Notify everybody").fill("<i>Cake</i>" + "w" * 100)
    await press(other, "Enter")
    notification = other.get_by_role("log").get_by_role("listitem")
    await expect(notification).to_have_count(1)
    await expect(notification).to_contain_text("<i>Cake</i>")
    await expect_to_fit(other)

    await other.goto(page.url.replace("jobs", "analytics"))
    await expect(
        other.get_by_role("row", name=re.compile("Jobs [1-9]"))
    ).to_be_visible()
    await expect(
        other.get_by_role("row", name=re.compile("Analytics [1-9]"))
    ).to_be_visible()
    await expect(state(other)).to_have_text("Connected")
    await expect_to_fit(other)

    await expect(bar).to_have_attribute("value", "100")
    await expect(page.get_by_text("100 %")).to_be_visible()
    await expect(page.get_by_text("Done", exact=True)).to_be_visible()


async def test_notification_reaches_every_page(visit: Visit) -> None:
    """A notification from one page is shown on all, and the field is ready again."""
    ada = await visit("/notifications")
    bob = await visit("/notifications")
    for page in (ada, bob):
        await expect(state(page)).to_have_text("Connected")
    field = ada.get_by_label("Notify everybody")
    await field.evaluate("field => field.removeAttribute('maxlength')")
    await field.fill("a" * 200)
    await press(ada, "Enter")
    for page in (ada, bob):
        await expect(page.get_by_text("from POST /notify")).to_have_count(1)
    await expect(field).to_have_value("")
    await expect(field).to_be_focused()
