"""`python -m narrowboat_device`: the command line, for where no console script is installed."""

from __future__ import annotations

import sys

from .cli import main

sys.exit(main())
