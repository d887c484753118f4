"""System messages: a consumer without a layer, which serves only its own client."""

from datetime import UTC, datetime

from fastapi import APIRouter

from fast_channels.consumer import AsyncWebsocketConsumer

TEXT_LENGTH = 500


class System(AsyncWebsocketConsumer):
    """Greets each client, and echoes its texts."""

    async def connect(self) -> None:
        await self.accept()
        time = datetime.now(UTC).strftime("%H:%M:%S")
        await self.send(f"The connection is open since {time} UTC.")

    async def receive(
        self, text_data: str | None = None, bytes_data: bytes | None = None
    ) -> None:
        if text_data is None:
            await self.send("That was a binary frame. Write text.")
        elif not 1 <= len(text_data.strip()) <= TEXT_LENGTH:
            await self.send(f"A text has 1 to {TEXT_LENGTH} characters.")
        else:
            await self.send(f"You wrote: {text_data.strip()}")


router = APIRouter()
router.add_websocket_route("/ws/system", System.as_asgi())
