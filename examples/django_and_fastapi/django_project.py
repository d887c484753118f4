"""The Django side: a project with Channels in one file, without fast_channels.

``uvicorn examples.django_and_fastapi.django_project:application --port 8001``
"""

# Django and Channels are installed only where this runs.
# mypy: disable-error-code="import-not-found, import-untyped, misc, untyped-decorator"
# pyright: basic, reportMissingImports=false, reportMissingModuleSource=false
# ruff: noqa: E402 # the last imports read the settings

import os
import secrets
from typing import Any

import django
from django.conf import settings

settings.configure(
    SECRET_KEY=secrets.token_hex(),
    ALLOWED_HOSTS=["localhost", "127.0.0.1"],
    ROOT_URLCONF=__name__,
    INSTALLED_APPS=["channels"],
    CHANNEL_LAYERS={
        "default": {
            "BACKEND": "channels_redis.core.RedisChannelLayer",
            "CONFIG": {
                "hosts": [os.environ.get("REDIS_URL", "redis://localhost:6379")],
            },
        }
    },
)
django.setup()

from asgiref.sync import async_to_sync
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.layers import get_channel_layer
from channels.routing import ProtocolTypeRouter, URLRouter
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, HttpResponse
from django.urls import path
from django.views.decorators.http import require_POST


class News(AsyncJsonWebsocketConsumer):
    groups = ["news"]  # every instance gets its own copy

    async def news_item(self, event: dict[str, Any]) -> None:
        await self.send_json({"from": event["from"], "text": event["text"]})


@require_POST
def publish(request: HttpRequest) -> HttpResponse:
    text = request.GET.get("text", "")
    message = {"type": "news.item", "from": "Django", "text": text}
    layer = get_channel_layer()
    assert layer is not None
    async_to_sync(layer.group_send)("news", message)
    return HttpResponse(status=202)


urlpatterns = [path("news", publish)]
application = ProtocolTypeRouter(
    {
        "http": get_asgi_application(),
        "websocket": URLRouter([path("ws/news", News.as_asgi())]),
    }
)
