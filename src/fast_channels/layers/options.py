"""Checks of options, whose errors name the option and its value."""

import math
from typing import TypeGuard

__all__ = [
    "is_int",
    "is_number",
    "require_finite",
    "require_int",
    "require_positive",
    "require_positive_int",
]


def is_int(value: object) -> TypeGuard[int]:
    """Return whether a value is an int; a bool is a mistake."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is an int or a float; a bool is a mistake."""
    return is_int(value) or isinstance(value, float)


def require_int(name: str, value: object) -> int:
    """Return the value of an option; raise unless it is an int."""
    if not is_int(value):
        raise TypeError(f"{name} must be an int, not {value!r}")
    return value


def require_positive_int(name: str, value: object) -> int:
    """Return the value of an option; raise unless it is a positive int."""
    number = require_int(name, value)
    if number < 1:
        raise ValueError(f"{name} must be at least 1, not {number!r}")
    return number


def require_positive(name: str, value: object) -> float:
    """Return the value of an option; raise unless it is a positive number."""
    if not is_number(value):
        raise TypeError(f"{name} must be a number, not {value!r}")
    if not value > 0:
        raise ValueError(f"{name} must be positive, not {value!r}")
    return value


def require_finite(name: str, value: object) -> float:
    """Return the value of an option; raise unless it is positive and finite."""
    number = require_positive(name, value)
    if not math.isfinite(number):
        raise ValueError(f"{name} must be finite, not {number!r}")
    return number
