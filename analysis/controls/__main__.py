"""``python -m analysis.controls``."""

import sys

from analysis.controls.page import main

sys.exit(main())
