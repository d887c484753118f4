"""Which names of channels and groups are valid."""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from fast_channels.layers import BaseChannelLayer

from .base import LIMIT, ContractBase, LayerPair

__all__ = ["NameTests"]

MESSAGE = {"type": "test.message"}
USES_OF_A_CHANNEL: dict[str, Callable[[BaseChannelLayer, Any], Awaitable[object]]] = {
    "send": lambda layer, name: layer.send(name, MESSAGE),
    "receive": lambda layer, name: asyncio.wait_for(layer.receive(name), LIMIT),
    "group_add": lambda layer, name: layer.group_add("group", name),
    "group_discard": lambda layer, name: layer.group_discard("group", name),
}
USES_OF_A_GROUP: dict[str, Callable[[BaseChannelLayer, Any], Awaitable[object]]] = {
    "group_add": lambda layer, name: layer.group_add(name, "channel"),
    "group_discard": lambda layer, name: layer.group_discard(name, "channel"),
    "group_send": lambda layer, name: layer.group_send(name, MESSAGE),
}
# Names that only some layers accept.
FREE = ["Weekly Sync", "a/b", "caf\u00e9", "\u4f1a\u8b70\u5ba4", "x" * 100]
FREE_IDS = ["space", "slash", "accent", "CJK", "long"]
# Names that no layer accepts.
NEVER: list[Any] = ["", None, 5, b"bytes"]


class NameTests(ContractBase):
    """Names that are accepted, and names that are refused."""

    @pytest.mark.parametrize("name", NEVER, ids=repr)
    @pytest.mark.parametrize("use", USES_OF_A_CHANNEL)
    async def test_invalid_name_of_a_channel_is_refused(
        self, layer: BaseChannelLayer, use: str, name: Any
    ) -> None:
        """Every method that takes a channel explains what is wrong with the name."""
        error = rf"{re.escape(repr(name))} is not a channel name: it must be a .*str"
        with pytest.raises(TypeError, match=error):
            await USES_OF_A_CHANNEL[use](layer, name)

    @pytest.mark.parametrize("name", NEVER, ids=repr)
    @pytest.mark.parametrize("use", USES_OF_A_GROUP)
    async def test_invalid_name_of_a_group_is_refused(
        self, layer: BaseChannelLayer, use: str, name: Any
    ) -> None:
        """Every method that takes a group explains what is wrong with the name."""
        error = rf"{re.escape(repr(name))} is not a group name: it must be a .*str"
        with pytest.raises(TypeError, match=error):
            await USES_OF_A_GROUP[use](layer, name)

    @pytest.mark.parametrize("name", ["A.b_c-9", "x" * 99], ids=["characters", "long"])
    async def test_names_that_every_layer_accepts(
        self, pair: LayerPair, name: str
    ) -> None:
        """Names of ASCII letters, digits and ``._-`` work for channels and groups."""
        channel = await pair.layer.new_channel()
        await pair.layer.group_add(name, channel)
        await pair.other.group_send(name, MESSAGE)
        assert await pair.rest(channel) == [MESSAGE]
        received = await pair.next_after(pair.other.send, name, MESSAGE, name)
        assert received == MESSAGE

    @pytest.mark.parametrize("name", FREE, ids=FREE_IDS)
    async def test_free_name_of_a_group_works_or_is_refused(
        self, pair: LayerPair, name: str
    ) -> None:
        """Other characters work everywhere, or every method refuses them."""
        if self.any_name_is_valid:
            channel = await pair.layer.new_channel()
            await pair.layer.group_add(name, channel)
            await pair.other.group_send(name, MESSAGE)
            assert await pair.rest(channel) == [MESSAGE]
            await pair.layer.group_discard(name, channel)
            return
        for use in USES_OF_A_GROUP.values():
            with pytest.raises(
                TypeError, match=r"must be (a str of ASCII|shorter than)"
            ):
                await use(pair.layer, name)

    @pytest.mark.parametrize("name", FREE, ids=FREE_IDS)
    async def test_free_name_of_a_channel_works_or_is_refused(
        self, pair: LayerPair, name: str
    ) -> None:
        """Other characters work everywhere, or every method refuses them."""
        if self.any_name_is_valid:
            received = await pair.next_after(pair.other.send, name, MESSAGE, name)
            assert received == MESSAGE
            channel = await pair.layer.new_channel(name)
            assert channel.startswith(self.start_of_names(pair.layer) + name)
            return
        error = r"must be (a str of ASCII|shorter than)"
        for use in USES_OF_A_CHANNEL.values():
            with pytest.raises(TypeError, match=error):
                await use(pair.layer, name)
        with pytest.raises(TypeError, match=error):
            await pair.layer.new_channel(name)
