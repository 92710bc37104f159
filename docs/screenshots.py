"""Take the pictures of the reports that docs/analyses shows: ``make screenshots``, with Chromium on the machine.

Each is the first screen of a committed report, in few colours so that it stays small; with ``--only NAME ...`` just
those. A report that changed its look needs its picture anew.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

__all__ = ["LIMIT", "REPORTS", "main", "shoot"]

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "docs" / "assets" / "reports"
REPORTS = (
    "attention", "probe", "heatmaps", "reconstruct", "adaptive", "tokens", "ablation", "controls", "compare", "claims",
    "index",
)  # fmt: skip
WIDTH, HEIGHT = 1280, 1500
LIMIT = 150_000
"""Most bytes of a picture."""


def shoot(page: Path, target: Path, browser: str) -> None:
    """Write the first screen of a page as a PNG of at most `LIMIT` bytes.

    Raises:
        RuntimeError: If the browser makes no picture.
    """
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder, "raw.png")
        words = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        words += [
            "--virtual-time-budget=4000",
            f"--user-data-dir={folder}/profile",
            f"--window-size={WIDTH},{HEIGHT}",
            f"--screenshot={raw}",
        ]
        done = subprocess.run([*words, page.resolve().as_uri()], capture_output=True, text=True, timeout=180)
        if not raw.exists():
            raise RuntimeError(f"{browser} made no picture of {page}: {done.stderr[-300:]}")
        image = Image.open(raw).convert("RGB")
        target.parent.mkdir(parents=True, exist_ok=True)
        for colours in (128, 64, 32, 16):
            image.quantize(colours, dither=Image.Dither.NONE).save(target, optimize=True)
            if target.stat().st_size <= LIMIT:
                return
        raise RuntimeError(f"{target} has {target.stat().st_size:,} bytes even in 16 colours; take a smaller part")


def main(arguments: Sequence[str] | None = None) -> int:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=REPORTS, default=REPORTS, help="reports (default: all)")
    options = parser.parse_args(arguments)
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        sys.exit("there is no Chromium on this machine; install it (Debian: apt install chromium)")
    for name in options.only:
        target = SHOTS / f"{name}.png"
        shoot(ROOT / "reports" / f"{name}.html", target, browser)
        print(f"{target.relative_to(ROOT)}: {target.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
