"""``python analysis/claims.py``: the command of `analysis.claims`."""

import sys

from analysis.claims.page import main

sys.exit(main())
