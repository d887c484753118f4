"""Names of all keys in Redis, and how they show where their prefix ends.

The key of a queue is the prefix followed directly by a name, as in channels_redis:
``app2jobs`` can be channel ``jobs`` of prefix ``app2``, or channel ``2jobs`` of prefix
``app``. All other keys have a colon after the prefix. Names contain no colon, so these
keys show where the prefix ends.
"""

import hashlib

__all__ = [
    "SIGN",
    "group_key",
    "history_keys",
    "mark_key",
    "private_key",
    "processes_key",
    "queue_key",
]

SIGN: bytes = rb":(?:group:[^:]+|[a-z]+:\{.+\}(?::[^:{}]+)?|layer|processes)"
"""Pattern of the part after the prefix, in keys that show where the prefix ends.

The key of a queue, in braces, can contain the colons of its own prefix.
"""


def queue_key(prefix: str, name: str) -> str:
    """Return the key of the queue of a plain channel or of a process."""
    return prefix + name


def group_key(prefix: str, group: str) -> str:
    """Return the key of a group."""
    return f"{prefix}:group:{group}"


def processes_key(prefix: str) -> str:
    """Return the key of the leases of processes."""
    return f"{prefix}:processes"


def mark_key(prefix: str) -> str:
    """Return the key that marks the prefix as in use."""
    return f"{prefix}:layer"


def private_key(prefix: str, kind: str, name: str) -> str:
    """Return a key that belongs to a queue, and that only this library uses.

    Redis Cluster hashes the part in braces, the queue's own key, so all keys of a queue
    are on one node.
    """
    return f"{prefix}:{kind}:{{{queue_key(prefix, name)}}}"


def history_keys(prefix: str, name: str, once: str | None = None) -> list[str]:
    """Return the keys of the history of a group.

    Args:
        prefix: The prefix of the shard.
        name: The name of the group.
        once: The key of a message that is sent once.

    Returns:
        The keys of the stored messages, of the position, and of the message.
    """
    keys = [f"{prefix}:{kind}:{{{name}}}" for kind in ("history", "position")]
    if once is not None:
        digest = hashlib.blake2b(once.encode(), digest_size=16).hexdigest()
        keys.append(f"{prefix}:once:{{{name}}}:{digest}")
    return keys
