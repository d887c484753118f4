"""The base class of middleware."""

from fast_channels.type_defs import (
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
)

__all__ = ["BaseMiddleware"]


class BaseMiddleware:
    """An application that calls another one with a copy of the scope.

    Override ``__call__`` and call ``super().__call__()`` with the scope for the inner
    application. To change the scope, change a copy of it.

    Use it like any application, or as a middleware class of Starlette and FastAPI, with
    ``Middleware(...)`` or ``add_middleware(...)``. As such it is also called for HTTP
    requests and for the lifespan, not only for WebSockets.

    Args:
        app: The inner application.
    """

    inner: ASGIApplication
    """The inner application."""

    # Older releases of Starlette pass the application by this name.
    def __init__(self, app: ASGIApplication) -> None:
        self.inner = app

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Call the inner application with a copy of the scope.

        The changes that the inner application makes to its scope do not reach the
        server or other middleware.
        """
        await self.inner(dict(scope), receive, send)
