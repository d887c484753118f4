"""JSON in the frames of a WebSocket, as strict as its specification.

Python's own functions also accept and produce NaN and infinite numbers, which other
languages refuse, and halves of surrogate pairs, which UTF-8 cannot encode.
"""

import json
import math
import re
from typing import Any, NoReturn

__all__ = ["INVALID_DATA", "UNSUPPORTED_DATA", "InvalidFrame", "decode", "encode"]

# https://www.rfc-editor.org/rfc/rfc6455.html#section-7.4.1
UNSUPPORTED_DATA = 1003
"""The close code for a frame of the wrong type."""
INVALID_DATA = 1007
"""The close code for a frame whose content is not valid."""


class InvalidFrame(ValueError):
    """A frame from the client is not JSON.

    Args:
        code: The code to close with.
        message: A description of the error in the frame.
    """

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        """The code to close with."""


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not valid JSON")


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise ValueError(f"{number} is too large")
    return value


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite)
_ENCODER = json.JSONEncoder(allow_nan=False)
# The escape of one half of a surrogate pair; the other half can be missing.
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def decode(text: str) -> Any:
    """Return the content of a text.

    Raises:
        ValueError: The text is not valid JSON, or has a value that cannot be sent on.
        RecursionError: The content is nested too deeply.
    """
    content = _DECODER.decode(text)
    if "\\u" in text and _SURROGATE.search(text):
        # Half of a pair raises UnicodeEncodeError, which is a ValueError.
        json.dumps(content, ensure_ascii=False).encode()
    return content


def encode(content: Any) -> str:
    """Return content as JSON.

    Raises:
        TypeError: The content cannot be encoded.
        ValueError: The content has a float that is NaN or infinite.
    """
    return _ENCODER.encode(content)
