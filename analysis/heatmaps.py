"""``python analysis/heatmaps.py``: the command of `analysis.heatmaps`."""

import sys

from analysis.heatmaps.page import main

sys.exit(main())
