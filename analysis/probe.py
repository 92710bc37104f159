"""``python analysis/probe.py``: the command of `analysis.probe`."""

import sys

from analysis.probe.page import main

sys.exit(main())
