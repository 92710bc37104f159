"""``python -m analysis.reconstruct``."""

import sys

from analysis.reconstruct.page import main

sys.exit(main())
