"""Writing files so that nobody ever sees half of one."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from lare.errors import LareError

__all__ = ["write_atomically"]


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file under a passing name and put it in place.

    Raises:
        LareError: If it can't be written.
    """
    data = content.encode("utf-8", "replace") if isinstance(content, str) else content
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        os.replace(partial, path)
    except OSError as error:
        raise LareError(f"{str(path)!r} can't be written ({error.strerror}); give another --out") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
