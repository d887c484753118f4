"""Elements of a chat page, and actions on it."""

from playwright.async_api import Locator, Page, expect

__all__ = ["composer", "expect_message", "log", "state", "write"]


def composer(page: Page) -> Locator:
    return page.get_by_label("Message", exact=True)


def log(page: Page) -> Locator:
    return page.get_by_role("log")


def state(page: Page) -> Locator:
    return page.locator("#state")


async def write(page: Page, text: str) -> None:
    await composer(page).fill(text)
    await composer(page).press("Enter")


async def expect_message(page: Page, author: str, text: str) -> None:
    message = log(page).get_by_role("article").filter(has_text=text)
    await expect(message).to_have_count(1)
    await expect(message.locator(".author")).to_have_text(author)
    await expect(message.locator(".text")).to_have_text(text)
