"""``python -m lare.experiments.sweep`` of earlier versions: says what has taken its place."""

from __future__ import annotations

import sys

from lare.experiments.replaced import main

__all__: list[str] = []

if __name__ == "__main__":
    sys.exit(main("lare.experiments.sweep"))
