"""Time limits of the tests."""

import pytest

# Seconds for one test in the long form.
_LONG = 3600


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Raise the time limit for the long form."""
    if config.getoption("--hypothesis-profile") == "long":
        for item in items:
            item.add_marker(pytest.mark.timeout(_LONG))
