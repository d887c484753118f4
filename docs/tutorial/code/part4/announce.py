import asyncio
import sys

from fast_channels.layers import get_channel_layer

from layers import register_layers


async def announce(room, text):
    message = {"type": "chat.notice", "text": text}
    await get_channel_layer("chat").group_send(f"room.{room}", message)


register_layers()
asyncio.run(announce(sys.argv[1], sys.argv[2]))
