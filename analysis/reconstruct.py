"""``python analysis/reconstruct.py``: the command of `analysis.reconstruct`."""

import sys

from analysis.reconstruct.page import main

sys.exit(main())
