"""``python -m analysis.heatmaps``."""

import sys

from analysis.heatmaps.page import main

sys.exit(main())
