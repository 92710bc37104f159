"""``python -m analysis.probe``."""

import sys

from analysis.probe.page import main

sys.exit(main())
