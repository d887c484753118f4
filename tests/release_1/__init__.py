"""The public names of fast-channels 1.1.0."""
