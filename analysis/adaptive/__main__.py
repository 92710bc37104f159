"""``python -m analysis.adaptive``."""

import sys

from analysis.adaptive.page import main

sys.exit(main())
