"""``python -m analysis.tokens``."""

import sys

from analysis.tokens.page import main

sys.exit(main())
