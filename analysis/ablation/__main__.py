"""``python -m analysis.ablation``."""

import sys

from analysis.ablation.page import main

sys.exit(main())
