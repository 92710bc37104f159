"""Blocks about photographs."""

from __future__ import annotations

from blocks.source import Reports, block, table


@block
def _photos_blind(reports: Reports) -> str:
    """What questions about photographs give away without the image."""
    head = ("source", "family", "train", "asked", "answers", "majority", "question only")
    lines = []
    for source in ("daquar", "captions", "animals"):
        for row in reports.read(f"photos/blind_{source}.json"):
            counts = [f"{row[name]:,}" for name in ("n_train", "n", "answers")]
            shares = [f"{100 * row[name]:.1f}" for name in ("majority", "question_only")]
            lines.append((f"`{source}`", row["family"].replace("_", " "), *counts, *shares))
    return table(head, lines, left=2)


@block
def _photos_probes(reports: Reports) -> str:
    """What a linear probe reads from the frozen encoder at each grid."""
    found = reports.read("photos/probes.json")
    grids = list(found["rows"][0]["right"])
    head = ("family", "pixels", "photographs", "majority", *(f"{grid} x {grid}" for grid in grids))
    lines = []
    for row in found["rows"]:
        shares = [f"{100 * row['right'][grid]:.1f} ± {100 * row['sd'][grid]:.1f}" for grid in grids]
        about = [row["family"].replace("_", " "), str(row["side"]), f"{row['n']:,}", f"{100 * row['majority']:.1f}"]
        lines.append([*about, *shares])
    return table(head, lines)
