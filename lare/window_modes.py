"""How a window is chosen, by name: what run files, methods and the model have in common. Needs no torch."""

from __future__ import annotations

from lare.errors import LareError

__all__ = ["WINDOW_MODES", "check_window_mode", "soft_temperature"]

WINDOW_MODES = ("saliency", "random", "full")
_SOFT = "soft:"


def soft_temperature(mode: str) -> float | None:
    """The temperature T of a window mode ``soft:T``; None for every other mode.

    Raises:
        LareError: If T is no number above 0.
    """
    if not mode.startswith(_SOFT):
        return None
    try:
        found = float(mode.removeprefix(_SOFT))
    except ValueError:
        found = 0.0
    if not 0 < found < float("inf"):
        raise LareError(f"window is {mode!r}; give soft:T with a temperature T above 0, such as soft:0.1.")
    return found


def check_window_mode(mode: str) -> None:
    """Refuse a window mode that is neither ``soft:T`` nor one of `WINDOW_MODES`.

    Raises:
        LareError: If it is unknown.
    """
    if soft_temperature(mode) is None and mode not in WINDOW_MODES:
        raise LareError(f"window is {mode!r}; give one of {', '.join(WINDOW_MODES)}, or soft:T.")
