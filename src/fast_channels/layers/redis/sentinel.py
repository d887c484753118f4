"""Connections to the server that Sentinel currently names as the master.

Sentinels watch a master and its replicas, and promote a replica when the master fails
(https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/). A client asks
one of them for the address, connects there, and verifies that the server is a master: a
Sentinel that was cut off may name a server that no longer is.
"""

import asyncio
from collections import deque

from .hosts import Host
from .wire import (
    Address,
    Connection,
    NoPermissionError,
    RedisConnectionError,
    RedisError,
    Reply,
    ask,
    located_connection,
    plain_connection,
)

__all__ = ["Address", "Master", "make_connection"]


class Master:
    """A master whose address Sentinels know. Belongs to one event loop.

    Args:
        host: The host that stands for the master, of the kind "sentinel".
        patience: Seconds to wait for one Sentinel before asking the next one.
    """

    def __init__(self, host: Host, *, patience: float = 1.0) -> None:
        self.host: Host = host
        """The host that stands for the master."""
        assert host.master_name is not None
        self._name = host.master_name
        self._patience = patience
        self.sentinels: deque[Host] = deque(host.sentinels)
        """The Sentinels, in the order in which they are asked.

        They learn of a new master one after the other: the first one to announce it
        should be asked first.
        """
        self.reached: set[Address] = set()
        """The addresses of connections, even of those that are still being opened."""

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
            f"no Sentinel gives the address of the master {self._name!r}: "
            + "; ".join(problems)
        )

    async def ask(self, sentinel: Host) -> Address:
        """Return the address of the master that one Sentinel gives.

        Raises:
            Exception: The Sentinel does not answer, or does not know the master.
        """
        async with asyncio.timeout(self._patience):
            address = await _ask_once(
                sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._name
            )
        if address is None:
            raise RedisConnectionError("it knows no such master")
        name, port = address
        return name.decode(), int(port)

    async def locate(self) -> Address:
        """Return the address of the master, and record that it is used.

        Raises:
            redis.exceptions.ConnectionError: No Sentinel that answers knows it.
        """
        address = await self.find()
        self.reached.add(address)
        return address

    async def require(self, server: Connection, address: Address) -> None:
        """Require that a server is a master.

        Raises:
            redis.exceptions.ConnectionError: It is a replica.
        """
        try:
            role, *_ = await ask(server, "ROLE")
        except NoPermissionError:
            # The access list can deny a user dangerous commands, such as ROLE. A
            # replica refuses the user's writes anyway.
            return
        if role != b"master":
            name, port = address
            raise RedisConnectionError(
                f"{name}:{port}, which Sentinel calls the master "
                f"{self._name!r}, is a {role.decode()}"
            )


def make_connection(place: Host | Master) -> Connection:
    """Return a connection to a host or a master, which is not open yet."""
    if isinstance(place, Host):
        return plain_connection(place)
    return located_connection(place.host, place.locate, place.require)


async def _ask_once(server: Host, *command: str) -> Reply:
    """Send a command on a new connection, and return the reply."""
    connection = plain_connection(server)
    try:
        await connection.connect()
        return await ask(connection, *command)
    finally:
        await connection.disconnect(nowait=True)
