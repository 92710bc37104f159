"""``python analysis/adaptive.py``: the command of `analysis.adaptive`."""

import sys

from analysis.adaptive.page import main

sys.exit(main())
