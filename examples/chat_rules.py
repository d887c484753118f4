"""What names and texts the chat takes."""

import re

# A room whose name is not valid is closed with this code, and the rule as the reason.
BAD_ROOM = 4400
ROOM_RULE = "A room name has 1 to 50 letters (A-Z), digits, hyphens and underscores."
NAME_RULE = "A name has 1 to 40 characters, and no control characters."
TEXT_LENGTH = 2000

_ROOM = re.compile(r"[A-Za-z0-9_-]{1,50}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f]{1,40}")


def is_room(name: str) -> bool:
    """Say whether a room may have a name."""
    return _ROOM.fullmatch(name) is not None


def check_name(name: str) -> str:
    """Return the name of a person without the space around it.

    Raises:
        ValueError: Nobody may have such a name.
    """
    name = name.strip()
    if not _NAME.fullmatch(name):
        raise ValueError(NAME_RULE)
    return name


def check_text(text: str, author: str | None) -> str:
    """Return a text without the space around it.

    Raises:
        ValueError: It is too long or empty, or its author has no name.
    """
    if author is None:
        raise ValueError("Join the room with a name before you write.")
    text = text.strip()
    if not 1 <= len(text) <= TEXT_LENGTH:
        raise ValueError(f"A message has 1 to {TEXT_LENGTH} characters.")
    return text
