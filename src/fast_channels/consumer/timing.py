"""How long a connection waits for its server, its client and its layer."""

from dataclasses import dataclass

__all__ = ["Timing"]


@dataclass(frozen=True)
class Timing:
    """Times in seconds."""

    answer: float = 10.0
    """For the client to answer ``close()``, until a disconnect is made up."""
    disconnect: float = 1.0
    """For the server to report that the client is gone, after a failed send."""
    close: float = 1.0
    """For the server to send a close."""
    release: float = 5.0
    """For the layer, at each step of the end of a cancelled connection."""
