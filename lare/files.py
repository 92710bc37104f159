"""Files that are whole or absent, whatever happens while they are written."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from lare.errors import LareError

__all__ = ["file_hash", "open_up", "read_header", "save_text", "write_whole"]

_UMASK = os.umask(0)
os.umask(_UMASK)


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in short."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()[:16]


def read_header(file: str | Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Storage type (as safetensors names it, such as "BF16") and shape of every tensor of a weights file, by name.

    Raises:
        SafetensorError: If the header is damaged.
        OSError: If the file can't be read.
    """
    from safetensors import safe_open

    found = {}
    with safe_open(file, framework="np") as opened:
        for name in opened.keys():  # noqa: SIM118 (not a dict)
            part = opened.get_slice(name)
            found[name] = (str(part.get_dtype()), tuple(part.get_shape()))
    return found


def open_up(path: Path) -> None:
    """Give a file the permissions that new files of this process have: safetensors lets its owner alone read it."""
    path.chmod(0o666 & ~_UMASK)


def save_text(path: Path, body: str) -> None:
    """Write a text file, with a line break at its end; see `write_whole`."""
    write_whole(path, body + "\n")


def write_whole(
    path: Path, content: str | bytes, mend: str = "make room or give another folder", make: bool = True
) -> None:
    """Write a file; an older one stays until the new one is whole.

    Args:
        path: The file.
        content: What stands in it; a text is written as UTF-8.
        mend: Ends the message.
        make: Make its folder where it is missing.

    Raises:
        LareError: If it can't be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if make:
            path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content.encode("utf-8", "replace") if isinstance(content, str) else content)
        temporary.replace(path)
    except OSError as error:
        raise LareError(f"{str(path)!r} can't be written ({error.strerror}); {mend}") from None
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
