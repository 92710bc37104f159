"""``python -m analysis.attention``."""

import sys

from analysis.attention.page import main

sys.exit(main())
