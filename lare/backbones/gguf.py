"""GGUF decoders, dequantised once: what transformers makes of the file is kept beside it as a folder of safetensors.

Reading a GGUF file parses its metadata three times (configuration, tokenizer, weights) and dequantises every weight,
which takes a minute for half a billion parameters; the folder loads in seconds, and bit for bit as the file does.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import transformers
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from lare.progress import note

__all__ = ["keep", "kept_folder", "plain_weights", "unpacking"]

_MARK = "gguf.json"


def unpacking() -> dict[str, Any]:
    """Options of `from_pretrained` that unpack all weights; else some machines keep them packed, and can't train."""
    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}


def plain_weights(decoder: PreTrainedModel) -> None:
    """Take away what says that an unpacked decoder is quantised, so that it and what is made of it can be saved."""
    quantizer: Any = getattr(decoder, "hf_quantizer", None)
    if quantizer is not None:
        quantizer.remove_quantization_config(decoder)


def kept_folder(file: Path) -> Path | None:
    """The folder that `keep` has made of a file; None where there is none, or the file or transformers has changed.

    Args:
        file: The GGUF file.
    """
    folder = _place(file)
    try:
        found = json.loads((folder / _MARK).read_text(encoding="utf8"))
    except (OSError, ValueError):
        return None
    return folder if found == _identity(file) else None


def keep(file: Path, decoder: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Write what was loaded from a file into the folder beside it; where that can't be written, say so and go on.

    Args:
        file: The GGUF file.
        decoder: As loaded, in float32, since no shorter type holds its weights exactly.
        tokenizer: As loaded.
    """
    folder = _place(file)
    part = None
    try:
        part = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
        decoder.save_pretrained(part)
        tokenizer.save_pretrained(part)
        (part / _MARK).write_text(json.dumps(_identity(file)), encoding="utf8")
        part.chmod(0o755)  # temporary folders are their owner's alone
        if kept_folder(file) is not None:  # another run was quicker, and may be reading it
            shutil.rmtree(part, ignore_errors=True)
            return
        shutil.rmtree(folder, ignore_errors=True)
        part.rename(folder)
    except OSError as error:
        if part is not None:
            shutil.rmtree(part, ignore_errors=True)
        note(f"{str(folder)!r} can't be written ({error}); each run will dequantise {file.name} anew")


def _place(file: Path) -> Path:
    return file.with_name(f"{file.name}.float32")


def _identity(file: Path) -> dict[str, object]:
    status = file.stat()
    return {"size": status.st_size, "changed": status.st_mtime_ns, "transformers": transformers.__version__}
