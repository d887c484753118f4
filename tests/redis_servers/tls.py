"""TLS in front of servers, whose programs may have been built without it."""

import asyncio
import contextlib
import datetime as dt
import functools
import ipaddress
import ssl
import threading
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.redis_servers.server import RedisServer

# Also on the loopback interface, where no server of the tests listens.
TLS_HOST = "127.0.0.2"


class Certificate:
    """A certificate for `TLS_HOST`, which is its own authority."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "certificate.pem"
        self._key_path = folder / "key.pem"
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, TLS_HOST)])
        now = dt.datetime.now(dt.UTC)
        host = x509.IPAddress(ipaddress.ip_address(TLS_HOST))
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(hours=1))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.SubjectAlternativeName([host]), critical=False)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        self.path.write_bytes(certificate.public_bytes(pem))
        self._key_path.write_bytes(
            key.private_bytes(
                pem,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def server_context(self) -> ssl.SSLContext:
        """Return the settings of a server that has the certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.path, self._key_path)
        return context


class TLSProxy:
    """Accepts TLS connections for servers, each at the server's port on `TLS_HOST`.

    A connection through the proxy ends when either side closes it. While a server is
    down, the proxy closes each new connection.
    """

    def __init__(
        self, servers: Sequence[RedisServer], certificate: Certificate
    ) -> None:
        self._servers = servers
        self._context = certificate.server_context()
        self._loop = asyncio.new_event_loop()
        self._end = asyncio.Event()
        self._listening = Future[None]()
        self._thread = threading.Thread(target=self._run, name="tls-proxy", daemon=True)
        self._thread.start()
        self._listening.result()

    def close(self) -> None:
        """Close all connections, and accept no more."""
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            try:
                runner.run(self._serve())
            except OSError as error:
                self._listening.set_exception(error)

    async def _serve(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for server in self._servers:
                listener = await asyncio.start_server(
                    functools.partial(self._link, server),
                    TLS_HOST,
                    server.port,
                    ssl=self._context,
                )
                stack.callback(listener.close)
            self._listening.set_result(None)
            await self._end.wait()

    async def _link(
        self,
        server: RedisServer,
        client_reader: asyncio.StreamReader,
        client_writer: asyncio.StreamWriter,
    ) -> None:
        with contextlib.suppress(OSError), contextlib.closing(client_writer):
            reader, writer = await asyncio.open_connection(server.host, server.port)
            with contextlib.closing(writer):
                await _first_of(
                    _copy(client_reader, writer), _copy(reader, client_writer)
                )


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until either side closes its connection."""
    while data := await reader.read(65_536):
        writer.write(data)
        await writer.drain()


async def _first_of(*copies: Coroutine[None, None, None]) -> None:
    """Run until one of them ends, then cancel the others."""
    tasks = [asyncio.ensure_future(copy) for copy in copies]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
