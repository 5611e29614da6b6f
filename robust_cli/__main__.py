"""`python -m robust_cli` is `robust`, for launchers that start modules."""

import sys

from robust_cli.cli import main

sys.exit(main())
