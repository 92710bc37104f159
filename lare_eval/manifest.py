"""What lmms-eval reads at start: which models this package adds.

lmms-eval calls `manifests` while it is itself half imported, and one entry point that fails hides all that come after
it; so nothing heavy is imported here, and methods are found without importing them (`lare.methods.listing`).
"""

from __future__ import annotations

import logging
import sys
from typing import Any

from lare.methods import method_names

__all__ = ["manifests", "model_id"]


def model_id(method: str) -> str:
    """Name of a method as an lmms-eval model: "lare" itself, else "lare_<method>"."""
    return method if method == "lare" else f"lare_{method}"


def manifests() -> list[Any]:
    """One manifest a method; also lets an evaluation that is being set up find the `lare_mini` tasks."""
    from lmms_eval.models.registry_v2 import ModelManifest

    if "lmms_eval.evaluator" in sys.modules:
        _offer_tasks()
    return [
        ModelManifest(model_id=model_id(method), chat_class_path=f"lare_eval.models.{method}")
        for method in method_names()
    ]


def _offer_tasks() -> None:
    """Without this `--tasks lare_mini` would need `--include_path` each time; a failure costs just that."""
    try:
        from lare_eval.hooks import offer_tasks

        offer_tasks()
    except Exception as error:  # noqa: BLE001 - whatever lmms-eval changed, other models must still load
        logging.getLogger(__name__).warning("lare_mini tasks need --include_path here: %s", error)
