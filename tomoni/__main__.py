"""`python -m tomoni` is the command `tomoni`."""

from __future__ import annotations

import sys

from tomoni.cli.app import main

sys.exit(main())
