"""``python analysis/compare.py``: the command of `analysis.compare`."""

import sys

from analysis.compare.page import main

sys.exit(main())
