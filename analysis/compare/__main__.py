"""``python -m analysis.compare``."""

import sys

from analysis.compare.page import main

sys.exit(main())
