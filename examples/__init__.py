"""An application that shows fast_channels at work: ``python -m examples``."""
