"""Select the forms of the layers to test."""

import os

import pytest

from .test_layers import OurContract

# The only forms to run where one form of each layer is enough.
_CHOSEN = os.environ.get("FAST_CHANNELS_TEST_BACKENDS", "")


def _is_chosen(item: pytest.Item) -> bool:
    contract = getattr(item, "cls", None)
    if not _CHOSEN or contract is None or not issubclass(contract, OurContract):
        return True
    return contract.name in _CHOSEN.split(",")


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Deselect the forms that the environment does not choose."""
    config.hook.pytest_deselected(
        items=[each for each in items if not _is_chosen(each)]
    )
    items[:] = [each for each in items if _is_chosen(each)]
