"""Rules for the names and texts of the chat."""

import re

# The close code for a room with an invalid name; the reason is the rule.
BAD_ROOM = 4400
ROOM_RULE = "A room name has 1 to 50 letters (A-Z), digits, hyphens and underscores."
NAME_RULE = "A name has 1 to 40 characters, and no control characters."
TEXT_LENGTH = 2000

_ROOM = re.compile(r"[A-Za-z0-9_-]{1,50}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,40}")


def is_room(name: str) -> bool:
    """Return whether a name is valid for a room."""
    return _ROOM.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return a person's name without surrounding whitespace.

    Raises:
        ValueError: The name is not valid.
    """
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise ValueError(NAME_RULE)
    return name


def check_text(text: str, author: str | None) -> str:
    """Return a text without surrounding whitespace.

    Raises:
        ValueError: It is too long or empty, or its author has no name.
    """
    if author is None:
        raise ValueError("Join the room with a name before you write.")
    text = text.strip()
    if not 1 <= len(text) <= TEXT_LENGTH:
        raise ValueError(f"A message has 1 to {TEXT_LENGTH} characters.")
    return text
