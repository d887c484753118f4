"""Send a notification from a script: ``python -m examples.notify "text"``.

Set REDIS_URL to the Redis of the server.
"""

import argparse
import asyncio

from fast_channels.layers.redis import RedisUnavailable

from .layers import redis_url, setup_layers
from .notifications import TEXT_LENGTH, notify


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m examples.notify",
        description="Send a notification to every page that shows them.",
    )
    parser.add_argument("text", help="the text of the notification")
    text = parser.parse_args().text.strip()
    if not 1 <= len(text) <= TEXT_LENGTH:
        parser.error(f"a notification has 1 to {TEXT_LENGTH} characters")
    if redis_url() is None:
        raise SystemExit(
            "This needs Redis: in memory, nothing reaches another process. Start the "
            "server, and this, with REDIS_URL=redis://localhost:6379."
        )
    setup_layers()
    try:
        asyncio.run(notify(text, "python -m examples.notify"))
    except RedisUnavailable as exc:
        raise SystemExit(f"Not sent: {exc}") from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
