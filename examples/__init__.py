"""An application that demonstrates fast_channels: ``python -m examples``."""
