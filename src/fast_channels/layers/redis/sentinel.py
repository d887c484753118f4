"""Connections to the server that Sentinel currently names as the master.

Sentinels watch a master and its replicas, and promote a replica when the master fails
(https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/). A client asks
one of them for the address, connects there, and verifies that the server is a master: a
Sentinel that was cut off may name a server that no longer is.
"""

import asyncio
from collections import deque
from typing import Any, TypeAlias, cast

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError

from .hosts import Host
from .opening import connection_options, plain_connection

__all__ = ["Address", "Master", "make_connection"]

Address: TypeAlias = tuple[str, int]
"""A host and a port."""

# Seconds to wait for one Sentinel before asking the next one.
_PATIENCE = 1.0


class Master:
    """A master whose address Sentinels know. Belongs to one event loop.

    Args:
        host: The host that stands for the master, of the kind "sentinel".
    """

    def __init__(self, host: Host) -> None:
        self.host: Host = host
        """The host that stands for the master."""
        self.sentinels: deque[Host] = deque(host.sentinels)
        """The Sentinels, in the order in which they are asked.

        They learn of a new master one after the other: the first one to announce it
        should be asked first.
        """
        self.reached: set[Address] = set()
        """The addresses that connections were opened to."""

    async def find(self) -> Address:
        """Return the address of the master.

        Raises:
            redis.exceptions.ConnectionError: No Sentinel that answers knows it.
        """
        problems: list[str] = []
        for sentinel in tuple(self.sentinels):
            try:
                return await self.ask(sentinel)
            except TimeoutError:
                problems.append(f"{sentinel} does not answer")
            except (RedisError, OSError) as exc:
                problems.append(f"{sentinel}: {exc}")
        raise RedisConnectionError(
            f"no Sentinel gives the address of the master {self.host.master_name!r}: "
            + "; ".join(problems)
        )

    async def ask(self, sentinel: Host) -> Address:
        """Return the address of the master that one Sentinel gives.

        Raises:
            Exception: The Sentinel does not answer, or does not know the master.
        """
        async with asyncio.timeout(_PATIENCE):
            address = await _ask(
                sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.host.master_name
            )
        if address is None:
            raise RedisConnectionError("it knows no such master")
        name, port = cast("tuple[bytes, bytes]", address)
        return name.decode(), int(port)


def make_connection(place: Host | Master) -> AbstractConnection:
    """Return a connection to a host or a master, which is not open yet."""
    if isinstance(place, Host):
        return plain_connection(place)
    kind = _SSLMasterConnection if place.host.tls else _MasterConnection
    return kind(place, connection_options(place.host))


async def _ask(server: Host, *command: Any) -> Any:
    """Send a command on a new connection, and return the reply."""
    connection = plain_connection(server)
    try:
        await connection.connect()  # type: ignore[no-untyped-call] # redis-py leaves it untyped
        return await _reply(connection, *command)
    finally:
        await connection.disconnect(nowait=True)


async def _reply(connection: AbstractConnection, *command: Any) -> Any:
    await connection.send_command(*command)
    return cast("Any", await connection.read_response())


class _ToMaster(AbstractConnection):
    """A connection that asks for the address of the master each time it connects."""

    def __init__(self, master: Master, options: dict[str, Any]) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType] # as above
        self._master = master

    async def connect(self) -> None:
        """Connect to the master.

        Raises:
            redis.exceptions.ConnectionError: There is no master at the moment.
        """
        self.host, self.port = await self._master.find()
        self._master.reached.add((self.host, self.port))
        await super().connect()  # type: ignore[no-untyped-call] # as above
        try:
            await self._require_master()
        except BaseException:
            await self.disconnect(nowait=True)
            raise

    async def _require_master(self) -> None:
        try:
            role, *_ = await _reply(self, "ROLE")
        except NoPermissionError:
            # The access list can deny a user dangerous commands, such as ROLE. A
            # replica refuses the user's writes anyway.
            return
        if role != b"master":
            raise RedisConnectionError(
                f"{self.host}:{self.port}, which Sentinel calls the master "
                f"{self._master.host.master_name!r}, is a {role.decode()}"
            )


class _MasterConnection(_ToMaster, Connection):
    pass


class _SSLMasterConnection(_ToMaster, SSLConnection):
    pass
