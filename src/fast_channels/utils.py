"""Functions that are useful in your own code too."""

from .dispatching import await_many_dispatch

__all__ = ["await_many_dispatch", "is_same_domain"]


def is_same_domain(host: str, pattern: str) -> bool:
    """Return whether a host matches the pattern of a domain.

    The pattern is not case-sensitive; the host must be in lower case.

    Args:
        host: The name of a host, without a port.
        pattern: A domain for exactly that host, or a domain with a leading dot for the
            domain and all its subdomains. An empty pattern matches nothing.
    """
    if not pattern:
        return False
    pattern = pattern.lower()
    if pattern.startswith("."):
        return host == pattern[1:] or host.endswith(pattern)
    return host == pattern
