"""``python analysis/attention.py``: the command of `analysis.attention`."""

import sys

from analysis.attention.page import main

sys.exit(main())
