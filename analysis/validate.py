"""``python analysis/validate.py``: the command of `analysis.validate`."""

import sys

from analysis.validate.page import main

sys.exit(main())
