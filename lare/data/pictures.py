"""Images by name, from a folder and the zip archives in it; no name reaches outside."""

from __future__ import annotations

import os
import stat
import zipfile
from pathlib import Path, PurePosixPath

from lare.data.sample import BadRow
from lare.errors import LareError

__all__ = ["Pictures"]


class Pictures:
    """The encoded images of a source.

    Worker processes each open the archives for themselves: a shared handle would mix their reads.

    Args:
        root: A folder, with images or zip archives of images in it, or one zip archive.

    Raises:
        LareError: If there is no such folder or archive, or an archive is damaged.
    """

    def __init__(self, root: Path) -> None:
        if not root.exists():
            raise LareError(f"there is no image folder {str(root)!r}; name it with --images")
        self.root = root
        archives = [root] if root.is_file() else sorted(root.glob("*.zip"))
        self._members: dict[str, Path] = {}
        self._empty: set[str] = set()
        self._inside: dict[Path, bool] = {}
        for archive in archives:
            try:
                with zipfile.ZipFile(archive) as opened:
                    self._members |= dict.fromkeys(opened.namelist(), archive)
                    self._empty |= {one.filename for one in opened.infolist() if not one.file_size}
            except (zipfile.BadZipFile, OSError) as error:
                raise LareError(f"{str(archive)!r} is no readable zip archive ({error}); download it again") from None
        self._opened: dict[tuple[int, Path], zipfile.ZipFile] = {}

    def read(self, image: str | bytes) -> bytes:
        """Return an image's encoded bytes.

        Raises:
            BadRow: If the name leads outside the folder, or there is no such file, or it is empty.
        """
        if isinstance(image, bytes):
            return image
        _check_name(image)
        data = self._archived(image) if image in self._members else self._file(image)
        if not data:
            raise _empty(image)
        return data

    def check(self, image: str | bytes) -> None:
        """Look whether an image is there and not empty, without reading it: one ``lstat`` a file.

        Raises:
            BadRow: As `read`, but for damage inside.
        """
        if isinstance(image, bytes):
            return
        _check_name(image)
        if image not in self._members:
            if not self._size(image):
                raise _empty(image)
        elif image in self._empty:
            raise _empty(image)

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_opened": {}}

    def _archived(self, image: str) -> bytes:
        key = (os.getpid(), self._members[image])
        if key not in self._opened:
            self._opened[key] = zipfile.ZipFile(key[1])
        try:
            return self._opened[key].read(image)
        except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError) as error:
            raise BadRow("image_damaged", f"the image {image!r} can't be unpacked ({error})") from None

    def _file(self, image: str) -> bytes:
        self._size(image)
        try:
            return (self.root / image).read_bytes()
        except OSError:
            raise self._missing(image) from None

    def _size(self, image: str) -> int:
        """Bytes of a file inside the folder. A link may lead out of it, so each of its folders is resolved, once."""
        path = self.root / image
        try:
            found = path.lstat()
            if stat.S_ISLNK(found.st_mode):
                found = path.stat()
                inside = self._contains(path)
            else:
                if path.parent not in self._inside:
                    self._inside[path.parent] = self._contains(path.parent)
                inside = self._inside[path.parent]
        except (OSError, ValueError):
            raise self._missing(image) from None
        if not inside:
            raise _outside(image)
        if not stat.S_ISREG(found.st_mode):
            raise self._missing(image)
        return found.st_size

    def _contains(self, path: Path) -> bool:
        root, resolved = self.root.resolve(), path.resolve()
        return root == resolved or root in resolved.parents

    def _missing(self, image: str) -> BadRow:
        return BadRow("image_missing", f"there is no image {image!r} in {str(self.root)!r}")


def _check_name(image: str) -> None:
    if PurePosixPath(image).is_absolute() or ".." in Path(image).parts or "\\" in image or ":" in image:
        raise _outside(image)


def _outside(image: str) -> BadRow:
    return BadRow("image_outside", f"the image {image!r} is not inside the image folder")


def _empty(image: str) -> BadRow:
    return BadRow("image_empty", f"the image {image!r} has 0 bytes")
