"""Run any ASGI application in a test."""

import asyncio
import contextlib
from collections.abc import Generator
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from fast_channels.consumer.base import AsyncConsumer
from fast_channels.type_defs import ASGIApplication, ChannelMessage, ChannelScope

__all__ = ["ApplicationCommunicator"]

if TYPE_CHECKING:
    # asgiref.testing has no types; this is what it has, and what the methods below use.
    class _Communicator:
        def __init__(self, application: object, scope: ChannelScope) -> None: ...
        @property
        def future(self) -> asyncio.Task[None]: ...
        async def send_input(self, message: ChannelMessage) -> None: ...
        async def receive_output(self, timeout: float) -> dict[str, Any]: ...
        async def receive_nothing(self, timeout: float, interval: float) -> bool: ...
        async def wait(self, timeout: float) -> None: ...
        def stop(self, exceptions: bool) -> None: ...

else:
    from asgiref.testing import ApplicationCommunicator as _Communicator


class ApplicationCommunicator(_Communicator):
    """Runs an application for one connection, in the role of its server.

    The application starts with the first call that needs it, in a task and a context
    of its own. If an exception ends it, the next call raises that exception.

    Use it with ``async with``: at the end of the block the application is cancelled
    unless it has ended, and its exception is raised if no call has raised it yet.

    Args:
        application: An ASGI application, or a consumer class.
        scope: The scope of the connection. You can change it until the application
            starts.
    """

    application: ASGIApplication
    """The application."""

    scope: ChannelScope
    """The scope of the connection."""

    # asgiref's __del__ needs the attribute, even after a constructor has failed.
    _future: asyncio.Task[None] | None = None

    def __init__(
        self,
        application: ASGIApplication | type[AsyncConsumer],
        scope: ChannelScope,
    ) -> None:
        served: object = application
        if isinstance(application, type) and issubclass(application, AsyncConsumer):
            served = application.as_asgi()
        super().__init__(served, scope)
        # Whether a call has raised the exception that ended the application.
        self._shown = False

    @property
    def future(self) -> asyncio.Task[None]:
        """The task that runs the application; reading it starts the application."""
        return super().future

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        future = self._future
        if future is None:
            return
        while not future.done():
            # Repeated, as the application can suppress a cancellation.
            future.cancel()
            await asyncio.wait([future], timeout=0.1)
        # Retrieved in any case, as asyncio logs exceptions that are never retrieved.
        error = None if future.cancelled() else future.exception()
        if error is not None and not self._shown and exc is None:
            raise error

    async def send_input(self, message: ChannelMessage) -> None:
        """Send the application an event, as its server does.

        Raises:
            Exception: The exception that has ended the application.
        """
        with self._showing():
            await super().send_input(message)

    async def receive_output(self, timeout: float = 1) -> dict[str, Any]:
        """Wait for the next event that the application sends, and return it.

        Args:
            timeout: Seconds to wait for the event.

        Raises:
            TimeoutError: No event came; the application has been cancelled.
            Exception: The exception that has ended the application.
        """
        with self._showing():
            return await super().receive_output(timeout)

    async def receive_nothing(
        self, timeout: float = 0.1, interval: float = 0.01
    ) -> bool:
        """Return whether the application sends nothing for a while.

        Args:
            timeout: Seconds to wait for an event.
            interval: Seconds between two checks.

        Raises:
            Exception: The exception that has ended the application.
        """
        with self._showing():
            return await super().receive_nothing(timeout, interval)

    async def wait(self, timeout: float = 1) -> None:
        """Wait for the application to end.

        Args:
            timeout: Seconds to wait before the application is cancelled.

        Raises:
            Exception: The exception that has ended the application.
        """
        with self._showing():
            await super().wait(timeout)

    def stop(self, exceptions: bool = True) -> None:
        """Cancel the application, without waiting for it to end.

        Args:
            exceptions: Whether to raise the exception that has ended the application.
        """
        with self._showing():
            super().stop(exceptions)

    @contextlib.contextmanager
    def _showing(self) -> Generator[None]:
        try:
            yield
        except BaseException:
            # An exception that comes while the application runs is not its own.
            self._shown = self._future is not None and self._future.done()
            raise
