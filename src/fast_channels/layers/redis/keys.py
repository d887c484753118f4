"""The names of all keys in Redis, and which of them belong to a prefix.

A queue is the prefix and a name, with nothing between them, as in channels_redis:
``app2jobs`` may be channel ``jobs`` of prefix ``app2``, or channel ``2jobs`` of prefix
``app``. All other keys begin with the prefix and a colon, which no name has, and so
tell where the prefix ends.
"""

__all__ = [
    "SIGN",
    "group_key",
    "mark_key",
    "private_key",
    "processes_key",
    "queue_key",
]

SIGN: bytes = rb":(?:group:[^:]+|[a-z]+:\{.+\}(?::[^:{}]+)?|layer|processes)"
"""What stands after the prefix in the keys that tell where it ends.

The key of a queue, in braces, may have the colons of its own prefix.
"""


def queue_key(prefix: str, name: str) -> str:
    """Return the key of a queue: that of a plain channel, or of a process."""
    return prefix + name


def group_key(prefix: str, group: str) -> str:
    """Return the key of a group."""
    return f"{prefix}:group:{group}"


def processes_key(prefix: str) -> str:
    """Return the key of the leases of processes."""
    return f"{prefix}:processes"


def mark_key(prefix: str) -> str:
    """Return the key that says that the prefix is in use."""
    return f"{prefix}:layer"


def private_key(prefix: str, kind: str, name: str) -> str:
    """Return a key that belongs to a queue, and that nothing but this library reads.

    The queue's own key, in braces, is the part that is hashed: in a cluster, all keys
    of a queue are on one node.
    """
    return f"{prefix}:{kind}:{{{queue_key(prefix, name)}}}"
