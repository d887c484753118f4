"""The layers that carry messages through Redis."""
