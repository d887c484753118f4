"""Which names of channels and groups are valid."""

import re
from collections.abc import Awaitable, Callable
from typing import Any

from fast_channels.layers import BaseChannelLayer

from .base import ContractBase, LayerPair, refusal

__all__ = ["NameTests"]

MESSAGE = {"type": "test.message"}
USES_OF_A_CHANNEL: dict[str, Callable[[BaseChannelLayer, Any], Awaitable[object]]] = {
    "send": lambda layer, name: layer.send(name, MESSAGE),
    "receive": lambda layer, name: layer.receive(name),
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
REFUSAL = r"must be (a str of ASCII|shorter than)"
# Names that no layer accepts.
NEVER: list[Any] = ["", None, 5, b"bytes"]


class NameTests(ContractBase):
    """Names that are accepted, and names that are refused."""

    async def test_invalid_name_of_a_channel_is_refused(
        self, layer: BaseChannelLayer
    ) -> None:
        """Every method that takes a channel explains what is wrong with the name."""
        for use, call in USES_OF_A_CHANNEL.items():
            for name in NEVER:
                said = await refusal(call(layer, name))
                expected = f"{name!r} is not a channel name: it must be a "
                assert said.startswith(expected), use
                assert "str" in said

    async def test_invalid_name_of_a_group_is_refused(
        self, layer: BaseChannelLayer
    ) -> None:
        """Every method that takes a group explains what is wrong with the name."""
        for use, call in USES_OF_A_GROUP.items():
            for name in NEVER:
                said = await refusal(call(layer, name))
                expected = f"{name!r} is not a group name: it must be a "
                assert said.startswith(expected), use
                assert "str" in said

    async def test_names_that_every_layer_accepts(self, pair: LayerPair) -> None:
        """Names of ASCII letters, digits and ``._-`` work for channels and groups."""
        for name in ("A.b_c-9", "x" * 99):
            channel = await pair.layer.new_channel()
            await pair.layer.group_add(name, channel)
            await pair.other.group_send(name, MESSAGE)
            assert await pair.rest(channel) == [MESSAGE]
            received = await pair.next_after(pair.other.send, name, MESSAGE, name)
            assert received == MESSAGE

    async def test_other_names_of_groups_work_or_are_refused(
        self, pair: LayerPair
    ) -> None:
        """Names with other characters work everywhere, or every method refuses them."""
        channel = await pair.layer.new_channel()
        for name in FREE:
            if self.any_name_is_valid:
                await pair.layer.group_add(name, channel)
                await pair.other.group_send(name, MESSAGE)
                assert await pair.rest(channel) == [MESSAGE], name
                await pair.layer.group_discard(name, channel)
                continue
            for use, call in USES_OF_A_GROUP.items():
                said = await refusal(call(pair.layer, name))
                assert re.search(REFUSAL, said), (use, name)

    async def test_other_names_of_channels_work_or_are_refused(
        self, pair: LayerPair
    ) -> None:
        """Names with other characters work everywhere, or every method refuses them."""
        for name in FREE:
            if self.any_name_is_valid:
                received = await pair.next_after(pair.other.send, name, MESSAGE, name)
                assert received == MESSAGE
                channel = await pair.layer.new_channel(name)
                assert channel.startswith(self.start_of_names(pair.layer) + name)
                continue
            for use, call in USES_OF_A_CHANNEL.items():
                said = await refusal(call(pair.layer, name))
                assert re.search(REFUSAL, said), (use, name)
            assert re.search(REFUSAL, await refusal(pair.layer.new_channel(name))), name
