"""Applications that route by the scope to other applications.

URL routing is left to the framework: these route by protocol and by channel.
"""

from collections.abc import Mapping
from typing import TypeAlias, cast

from .consumer.base import AsyncConsumer
from .type_defs import (
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
)

__all__ = ["ChannelNameRouter", "ProtocolTypeRouter"]

_Mapping: TypeAlias = Mapping[str, ASGIApplication | type[AsyncConsumer]]


def as_application(
    application: ASGIApplication | type[AsyncConsumer],
) -> ASGIApplication:
    """Return an application unchanged, or the application of a consumer class."""
    if isinstance(application, type) and issubclass(application, AsyncConsumer):
        return application.as_asgi()
    return cast("ASGIApplication", application)


class ProtocolTypeRouter:
    """Routes each connection to the application for its protocol, ``scope["type"]``.

    A server also runs the `lifespan`_ protocol, once. Unless it is mapped, it goes to
    the application for ``"http"``, so that the framework's startup and shutdown run; an
    application without support for the protocol raises, as it does when served alone,
    and servers continue without the protocol. If ``"http"`` is not mapped either, the
    router confirms startup and shutdown to the server, and does nothing else.

    .. _lifespan: https://asgi.readthedocs.io/en/latest/specs/lifespan.html

    Args:
        application_mapping: Applications, or consumer classes, by type:
            ``"http"``, ``"websocket"``, ``"channel"`` for a worker, or any other.
    """

    def __init__(self, application_mapping: _Mapping) -> None:
        self.application_mapping: dict[str, ASGIApplication] = _applications(
            application_mapping
        )
        """The application for each protocol."""
        if "http" in self.application_mapping:
            self._lifespan = self.application_mapping["http"]
        else:
            self._lifespan = _confirm_lifespan

    def __repr__(self) -> str:
        return f"<ProtocolTypeRouter [{', '.join(self.application_mapping)}]>"

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Serve one connection.

        Raises:
            ValueError: No application is mapped for the protocol.
        """
        protocol: str = scope["type"]
        application = self.application_mapping.get(protocol)
        if application is None:
            if protocol != "lifespan":
                raise ValueError(
                    f"no application for protocol type {protocol!r}: this "
                    f"ProtocolTypeRouter knows {_names(self.application_mapping)}"
                )
            application = self._lifespan
        await application(scope, receive, send)


class ChannelNameRouter:
    """Routes each message of a worker to the application for its channel.

    Args:
        application_mapping: Applications, or consumer classes, by the name of the
            channel, ``scope["channel"]``.
    """

    def __init__(self, application_mapping: _Mapping) -> None:
        self.application_mapping: dict[str, ASGIApplication] = _applications(
            application_mapping
        )
        """The application for each channel."""

    def __repr__(self) -> str:
        return f"<ChannelNameRouter [{', '.join(self.application_mapping)}]>"

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Serve one message.

        Raises:
            ValueError: The scope names no channel, or one that is not mapped.
        """
        if "channel" not in scope:
            raise ValueError(
                "a ChannelNameRouter is for scopes of type 'channel', which name a "
                f"'channel' and come from a worker; this one is of type "
                f"{scope.get('type')!r} and names none"
            )
        channel: str = scope["channel"]
        application = self.application_mapping.get(channel)
        if application is None:
            raise ValueError(
                f"no application for channel {channel!r}: this ChannelNameRouter "
                f"knows {_names(self.application_mapping)}"
            )
        await application(scope, receive, send)


async def _confirm_lifespan(
    scope: ChannelScope, receive: ASGIReceiveCallable, send: ASGISendCallable
) -> None:
    event = ""
    while event != "lifespan.shutdown":
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})


def _applications(mapping: _Mapping) -> dict[str, ASGIApplication]:
    return {name: as_application(mapped) for name, mapped in mapping.items()}


def _names(mapping: Mapping[str, ASGIApplication]) -> str:
    return ", ".join(map(repr, mapping)) or "none"
