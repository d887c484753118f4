"""Serve the examples."""

import argparse
import contextlib
import errno
import ipaddress
import socket

import uvicorn

from fast_channels.layers import InMemoryChannelLayer, get_channel_layer

from .app import app

LAST_PORT = 65535


def listen(host: str, port: int) -> socket.socket:
    """Return a listening socket, or exit with a line that says why there is none."""
    if not 0 <= port <= LAST_PORT:
        hint = f"a port is a number from 0 to {LAST_PORT}"
        raise SystemExit(f"Cannot serve on {host!r}, port {port}: {hint}")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, UnicodeError) as exc:
        if isinstance(exc, OSError) and exc.errno == errno.EADDRINUSE:
            hint = f"Port {port} of {host} is in use: choose another one with --port."
            raise SystemExit(hint) from None
        raise SystemExit(f"Cannot serve on {host!r}, port {port}: {exc}") from None


def url_of(listener: socket.socket) -> str:
    """Return the address of the pages for a browser on this machine."""
    host, port = listener.getsockname()[:2]
    if ipaddress.ip_address(host).is_unspecified:
        host = "localhost"
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def describe_layer() -> str:
    """Describe what carries the messages, without a password."""
    layer = get_channel_layer("chat")
    if isinstance(layer, InMemoryChannelLayer):
        return "memory; set REDIS_URL to connect several servers"
    return repr(layer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m examples", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
    parser.add_argument(
        "--port", type=int, default=8000, help="default: %(default)s; 0 is any free one"
    )
    args = parser.parse_args()
    # A tab that does not answer must not delay Ctrl-C for more than a moment.
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2)
    with listen(args.host, args.port) as listener:
        print(f"Chat: {url_of(listener)}\nLayer: {describe_layer()}", flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
