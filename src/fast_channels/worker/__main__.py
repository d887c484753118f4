"""The entry point of ``python -m fast_channels.worker``."""

import sys

from .command_line import main

sys.exit(main())
