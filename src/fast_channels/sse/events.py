"""The format of server-sent events."""

import json
import re
from dataclasses import dataclass
from typing import Any

__all__ = ["HEADERS", "HEARTBEAT", "ServerSentEvent"]

HEADERS: dict[str, str] = {
    "content-type": "text/event-stream",
    "cache-control": "no-store",
    # nginx passes on what it receives at once.
    "x-accel-buffering": "no",
}
"""The headers of a response that consists of events."""

HEARTBEAT = b":\n\n"
"""A comment, which clients ignore. It keeps proxies from closing the connection, and
shows the server that a client is gone."""

# What ends a line of the format.
_LINE_END = re.compile("\r\n|\r|\n")


@dataclass(frozen=True, slots=True)
class ServerSentEvent:
    """An event of an event stream.

    Args:
        data: A str is sent as it is, and anything else as JSON. Without data, browsers
            report no event, but they still note the ``id`` and the ``retry``.
        event: Its type, to which listeners are added in browsers; ``"message"`` by
            default.
        id: Its ID, which browsers send in the header ``Last-Event-ID`` when they
            reconnect; an empty one makes them forget the last ID.
        retry: Seconds for browsers to wait before they reconnect.
        comment: A text that browsers ignore.
    """

    data: Any = None
    event: str | None = None
    id: str | None = None
    retry: float | None = None
    comment: str | None = None

    def encode(self) -> bytes:
        """Return the bytes of the event.

        Raises:
            TypeError: JSON cannot encode the data.
            ValueError: The type or the ID cannot be sent, as it has a line break or a
                null character.
        """
        lines: list[str] = []
        if self.comment is not None:
            lines += [f": {line}" for line in _LINE_END.split(self.comment)]
        if self.retry is not None:
            lines.append(f"retry: {round(1000 * self.retry)}")
        for field, value in (("event", self.event), ("id", self.id)):
            if value is not None:
                if _LINE_END.search(value) or "\0" in value:
                    raise ValueError(
                        f"the {field} of a server-sent event must not contain a line "
                        f"break or a null character: {value!r}"
                    )
                lines.append(f"{field}: {value}")
        if self.data is not None:
            text = self.data if isinstance(self.data, str) else _to_json(self.data)
            lines += [f"data: {line}" for line in _LINE_END.split(text)]
        return "\n".join([*lines, "", ""]).encode()


def _to_json(data: Any) -> str:
    return json.dumps(data, ensure_ascii=False, separators=(",", ":"))
