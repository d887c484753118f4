"""Cut connections of clients, as a broken network does."""

import asyncio
from collections.abc import Callable

from tests.redis_servers.server import RedisServer

Client = dict[str, str]
"""A server's description of a client."""


def reads(client: Client) -> bool:
    """Return whether a reader uses the connection: it tracks keys or gets changes."""
    return bool({"t", "P"} & set(client["flags"]))


def any_client(client: Client) -> bool:
    return True


def kill(server: RedisServer, chosen: Callable[[Client], bool]) -> None:
    """Cut some connections."""
    victims = [client["id"] for client in server.clients() if chosen(client)]
    with server.connect() as connection:
        connection.pipeline(*[("CLIENT", "KILL", "ID", each) for each in victims])


async def kill_again_and_again(
    server: RedisServer, times: int, chosen: Callable[[Client], bool] = reads
) -> None:
    """Cut connections some times, each time when a reader has connected again."""

    def kill_once() -> bool:
        is_there = any(map(reads, server.clients()))
        if is_there:
            kill(server, chosen)
        return is_there

    for _ in range(times):
        while not await asyncio.to_thread(kill_once):  # noqa: ASYNC110 # a server has no events
            await asyncio.sleep(0.001)
