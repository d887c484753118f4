"""Connections to whatever server Sentinel calls the master at that moment.

Sentinels watch a master and its replicas, and promote a replica when the master fails
(https://redis.io/docs/latest/operate/oss_and_stack/management/sentinel/). A client asks
one of them for the address, connects there, and makes sure that it has found a master:
a Sentinel that was cut off may name one that is none any more.
"""

import asyncio
from typing import Any, cast

from redis.asyncio.connection import AbstractConnection, Connection, SSLConnection
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import NoPermissionError, RedisError

from .hosts import Host
from .opening import connection_options, plain_connection

__all__ = ["find_master", "make_connection"]

# For how many seconds to wait for one Sentinel before the next one is asked.
_PATIENCE = 1.0


def make_connection(host: Host) -> AbstractConnection:
    """Return a connection to a host of any kind, which is not open yet."""
    if host.kind != "sentinel":
        return plain_connection(host)
    kind = _SSLMasterConnection if host.tls else _MasterConnection
    return kind(host, connection_options(host))


async def find_master(host: Host) -> tuple[str, int]:
    """Return the address of the master that a host stands for.

    Raises:
        redis.exceptions.ConnectionError: No Sentinel answers, or none knows it.
    """
    problems: list[str] = []
    for sentinel in host.sentinels:
        try:
            async with asyncio.timeout(_PATIENCE):
                address = await _ask(
                    sentinel, "SENTINEL", "GET-MASTER-ADDR-BY-NAME", host.master_name
                )
        except TimeoutError:
            problems.append(f"{sentinel} does not answer")
            continue
        except (RedisError, OSError) as exc:
            problems.append(f"{sentinel}: {exc}")
            continue
        if address is not None:
            name, port = cast("tuple[bytes, bytes]", address)
            return name.decode(), int(port)
        problems.append(f"{sentinel} knows no such master")
    raise RedisConnectionError(
        f"no Sentinel tells where the master {host.master_name!r} is: "
        + "; ".join(problems)
    )


async def _ask(server: Host, *command: Any) -> Any:
    """Send a command on a connection of its own, and return the reply."""
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
    """Asks where the master is each time that it connects."""

    def __init__(self, master: Host, options: dict[str, Any]) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType] # as above
        self._master = master

    async def connect(self) -> None:
        """Connect to the master.

        Raises:
            redis.exceptions.ConnectionError: There is none at the moment.
        """
        self.host, self.port = await find_master(self._master)
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
            # A user may be kept from what is dangerous, and ROLE counts as that. A
            # replica refuses his writes all the same.
            return
        if role != b"master":
            raise RedisConnectionError(
                f"{self.host}:{self.port}, which Sentinel calls the master "
                f"{self._master.master_name!r}, is a {role.decode()}"
            )


class _MasterConnection(_ToMaster, Connection):
    pass


class _SSLMasterConnection(_ToMaster, SSLConnection):
    pass
