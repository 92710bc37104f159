"""A file is whole or absent, and what stood there before is not lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from lare.errors import LareError
from lare.files import save_text


def test_a_folder_is_made_and_nothing_else_is_left(tmp_path: Path) -> None:
    save_text(tmp_path / "new" / "a.txt", "one")
    save_text(tmp_path / "new" / "a.txt", "two")
    assert [path.read_text("utf8") for path in (tmp_path / "new").iterdir()] == ["two\n"]


def test_a_failed_write_keeps_the_older_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_text(tmp_path / "a.txt", "one")
    whole = Path.write_bytes

    def full_disk(self: Path, body: bytes) -> int:
        whole(self, body[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full_disk)
    with pytest.raises(LareError, match=r"a\.txt.*No space left"):
        save_text(tmp_path / "a.txt", "two")
    assert [path.read_text("utf8") for path in tmp_path.iterdir()] == ["one\n"]
