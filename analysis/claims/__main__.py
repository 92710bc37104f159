"""``python -m analysis.claims``."""

import sys

from analysis.claims.page import main

sys.exit(main())
