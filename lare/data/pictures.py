"""Images by name, from a folder and the zip archives in it; no name reaches outside."""

from __future__ import annotations

import os
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
        for archive in archives:
            try:
                with zipfile.ZipFile(archive) as opened:
                    self._members |= dict.fromkeys(opened.namelist(), archive)
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
        if PurePosixPath(image).is_absolute() or ".." in Path(image).parts or "\\" in image or ":" in image:
            raise BadRow("image_outside", f"the image {image!r} is not inside the image folder")
        data = self._archived(image) if image in self._members else self._file(image)
        if not data:
            raise BadRow("image_empty", f"the image {image!r} has 0 bytes")
        return data

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
        path = self.root / image
        try:
            if self.root.resolve() not in path.resolve().parents:  # a symbolic link may lead out
                raise BadRow("image_outside", f"the image {image!r} is not inside the image folder")
            return path.read_bytes()
        except OSError:
            raise BadRow("image_missing", f"there is no image {image!r} in {str(self.root)!r}") from None
