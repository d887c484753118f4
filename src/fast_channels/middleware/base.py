"""The middleware that others extend."""

from fast_channels.type_defs import (
    ASGIApplication,
    ASGIReceiveCallable,
    ASGISendCallable,
    ChannelScope,
)

__all__ = ["BaseMiddleware"]


class BaseMiddleware:
    """An application that calls another one, with a scope of its own.

    Override ``__call__`` and call ``super().__call__()`` with the scope that the inner
    application is to get; to change the scope, change a copy of it.

    It goes wherever an application goes, and where Starlette and FastAPI take a
    middleware class: ``Middleware(...)`` and ``add_middleware(...)``. There it is
    called for HTTP requests and for the lifespan too, not only for WebSockets.

    Args:
        app: The inner application.
    """

    inner: ASGIApplication
    """The inner application."""

    # Older releases of Starlette give it by this name.
    def __init__(self, app: ASGIApplication) -> None:
        self.inner = app

    async def __call__(
        self,
        scope: ChannelScope,
        receive: ASGIReceiveCallable,
        send: ASGISendCallable,
    ) -> None:
        """Call the inner application with a copy of the scope.

        What it changes in the scope is seen neither by the server nor by other
        middleware.
        """
        await self.inner(dict(scope), receive, send)
