"""``python -m lare`` is the ``lare`` command; ``accelerate launch -m lare ...`` needs it."""

import sys

from lare.cli import main

sys.exit(main())
