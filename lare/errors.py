"""The one exception that LaRe raises on purpose, and a short way to raise it.

A user sees its message alone (the command line prints no traceback for it), so each message is one sentence that
names the thing that is wrong and one that says how to mend it.
"""

from __future__ import annotations

__all__ = ["LareError", "require"]


class LareError(ValueError):
    """Something the caller gave is impossible, missing or damaged; the message names it and says how to mend it."""


def require(ok: bool, message: str) -> None:
    """Refuse an impossible setting.

    Raises:
        LareError: With the message, unless it is ok.
    """
    if not ok:
        raise LareError(message)
