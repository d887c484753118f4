"""What ``python -m fast_channels.worker`` runs."""

import sys

from .command_line import main

sys.exit(main())
