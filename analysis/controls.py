"""``python analysis/controls.py``: the command of `analysis.controls`."""

import sys

from analysis.controls.page import main

sys.exit(main())
