"""Functions that are useful outside the library too."""

from .dispatching import await_many_dispatch

__all__ = ["await_many_dispatch", "is_same_domain"]


def is_same_domain(host: str, pattern: str) -> bool:
    """Return whether a host is the domain that a pattern names.

    Case does not matter in the pattern, and hosts are expected in lower case.

    Args:
        host: The name of a host, without a port.
        pattern: A domain for exactly that host, or a domain with a dot before it for
            the domain and everything below it. The empty pattern names nothing.
    """
    if not pattern:
        return False
    pattern = pattern.lower()
    if pattern.startswith("."):
        return host == pattern[1:] or host.endswith(pattern)
    return host == pattern
