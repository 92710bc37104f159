"""``python -m analysis.validate``."""

import sys

from analysis.validate.page import main

sys.exit(main())
