"""``python analysis/ablation.py``: the command of `analysis.ablation`."""

import sys

from analysis.ablation.page import main

sys.exit(main())
