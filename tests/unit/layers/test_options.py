"""Options of layers, and errors for invalid ones."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from fast_channels.layers.options import (
    is_int,
    is_number,
    require_finite,
    require_int,
    require_positive,
    require_positive_int,
)


@pytest.mark.parametrize(
    ("value", "an_int", "a_number"),
    [
        (0, True, True),
        (-5, True, True),
        (2**80, True, True),
        (0.5, False, True),
        (math.inf, False, True),
        (True, False, False),
        ("1", False, False),
        (None, False, False),
        (1j, False, False),
    ],
)
def test_a_bool_is_not_a_number(value: object, an_int: bool, a_number: bool) -> None:
    """is_int() and is_number() accept numbers, but no bools."""
    assert is_int(value) is an_int
    assert is_number(value) is a_number


@pytest.mark.parametrize(
    ("require", "value"),
    [
        (require_int, -1),
        (require_positive_int, 1),
        (require_positive, 0.1),
        (require_positive, math.inf),
        (require_finite, 60),
    ],
)
def test_value_of_an_option_is_returned(
    require: Callable[[str, object], float], value: float
) -> None:
    """A valid value is returned unchanged."""
    assert require("expiry", value) is value


@pytest.mark.parametrize(
    ("require", "value", "error", "problem"),
    [
        (require_int, 1.5, TypeError, "an int, not 1.5"),
        (require_int, True, TypeError, "an int, not True"),
        (require_positive_int, "1", TypeError, "an int, not '1'"),
        (require_positive_int, 0, ValueError, "at least 1, not 0"),
        (require_positive, True, TypeError, "a number, not True"),
        (require_positive, 0, ValueError, "positive, not 0"),
        (require_positive, math.nan, ValueError, "positive, not nan"),
        (require_finite, None, TypeError, "a number, not None"),
        (require_finite, -1.5, ValueError, "positive, not -1.5"),
        (require_finite, math.inf, ValueError, "finite, not inf"),
    ],
)
def test_invalid_value_of_an_option_is_refused(
    require: Callable[[str, Any], object],
    value: object,
    error: type[Exception],
    problem: str,
) -> None:
    """The error names the option and its value."""
    with pytest.raises(error, match=f"^expiry must be {problem}$"):
        require("expiry", value)
