"""A chat that shows fast_channels at work: ``python -m examples``."""
