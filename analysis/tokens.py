"""``python analysis/tokens.py``: the command of `analysis.tokens`."""

import sys

from analysis.tokens.page import main

sys.exit(main())
