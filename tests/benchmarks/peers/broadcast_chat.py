"""The chat with fast_channels and ``@broadcast``."""

from contextlib import AbstractAsyncContextManager
from typing import Any

from starlette.applications import Starlette

from fast_channels.consumer import broadcast

from . import Publish, ours_chat

KIND: str = ours_chat.KIND


class Chat(ours_chat.Room):
    @broadcast
    def chat_message(cls, event: dict[str, Any]) -> str:
        text: str = event["text"]
        return text


def make_application(redis_url: str) -> Starlette:
    """Return the chat."""
    ours_chat.KIND = KIND
    return ours_chat.serve(Chat, redis_url)


def open_publisher(redis_url: str) -> AbstractAsyncContextManager[Publish]:
    """Return a function that publishes a text to a room."""
    ours_chat.KIND = KIND
    return ours_chat.open_publisher(redis_url)
