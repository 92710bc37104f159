"""Strict loading: either a checkpoint is complete, or there is one clear error; never silent random weights.

`StrictLoading` is for LaRe's own checkpoints, `loaded` and `loaded_whole` for those of others.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging
from transformers.utils.hub import cached_file

from lare.errors import LareError
from lare.files import open_up
from lare.model.base_weights import BASE_FILE, Base, read_base, read_own
from lare.model.configuration_lare import LareConfig
from lare.model.shapes import check_shapes, weight_files
from lare.model.stop_head import HEADS_FILE, StopHeads
from lare.registry import base_tensors_loader

__all__ = ["StrictLoading", "check_template", "loaded", "loaded_whole", "quiet"]

T = TypeVar("T")

_FAILURES = (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError, RuntimeError, SafetensorError)
_SHOWN = 3  # names listed in a message
_HUB = ("revision", "cache_dir", "token", "local_files_only", "subfolder", "force_download", "proxies")


class StrictLoading(PreTrainedModel):
    """Base of the model class whose `from_pretrained` refuses what transformers would only warn of.

    Attributes:
        stop_heads: Learned stop rules, fitted on these very weights; None without. They are no part of the state
            dictionary and lie in a file of their own.
        base: The pre-trained parts of a model with adapters, which its checkpoints name and do not hold; None where
            they hold all weights. Set it to None to save all.
    """

    stop_heads: StopHeads | None = None
    base: Base | None = None

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, pretrained_model_name_or_path: str | os.PathLike[str], *args: Any, **kwargs: Any
    ) -> Any:
        """Load a LaRe checkpoint written by `save_pretrained` (safetensors only).

        Args:
            pretrained_model_name_or_path: Directory or hub id.
            *args: As transformers'.
            **kwargs: As transformers' (`dtype`, `revision`, `output_loading_info`, ...).

        Returns:
            The model in evaluation mode (and the loading information, if asked for).

        Raises:
            LareError: If the checkpoint is not LaRe's, or weights are missing, left over, misshapen or damaged.
        """
        place = os.fspath(pretrained_model_name_or_path)
        wants_info = kwargs.pop("output_loading_info", False)
        hub = {key: kwargs[key] for key in _HUB if key in kwargs}
        _check_model_type(place, LareConfig.model_type, hub)
        # Misshapen weights are let through to be named by our own message, which also replaces transformers' report.
        kwargs.update(use_safetensors=True, ignore_mismatched_sizes=True, output_loading_info=True)
        base = read_base(place, hub)
        try:
            with quiet():
                if "variant" not in kwargs and not args and base is None:
                    given = kwargs.get("config")
                    config = given if isinstance(given, LareConfig) else LareConfig.from_pretrained(place, **hub)
                    check_shapes(cls, place, config, hub)
                if base is None:
                    loaded: Any = super().from_pretrained(place, *args, **kwargs)
                else:
                    with _checked(place, base, hub, kwargs) as options:
                        loaded = super().from_pretrained(None, *args, **options)
        except LareError:
            raise
        except SafetensorError as error:
            raise LareError(
                f"The weights of {place} are damaged ({_first_line(error)}); copy or train the checkpoint again."
            ) from error
        except (OSError, ValueError, RuntimeError) as error:
            raise LareError(f"The checkpoint {place} can't be loaded: {_first_line(error)}") from error
        model, info = loaded
        _check_complete(place, info)
        # Loading makes parameters anew, and new ones train.
        model.freeze_encoder()
        if base is not None:
            model.base, model.config._name_or_path = base, place
            model.generation_config = loaded_if_there(place, hub) or model.generation_config
        model.stop_heads = _stop_heads(place, model.config, hub)
        return (model, info) if wants_info else model

    def save_pretrained(
        self, save_directory: str | os.PathLike[str], is_main_process: bool = True, *args: Any, **kwargs: Any
    ) -> None:
        """As transformers', with the learned stop rules beside the weights; those of earlier weights there go.

        A model that has a `base` is saved without it (`lare.model.base_weights`).
        """
        base = None
        if self.base is not None and "state_dict" not in kwargs and not args:
            own, base = self.base.part(self.state_dict())
            # Under the model's own names: transformers writes some families under those of earlier versions.
            kwargs |= {} if base is None else {"state_dict": own, "save_original_format": False}
        super().save_pretrained(save_directory, is_main_process, *args, **kwargs)
        for path in Path(save_directory).glob("*.safetensors") if is_main_process else ():
            open_up(path)
        if is_main_process and base is not None:
            base.save(save_directory)
        elif is_main_process:
            Path(save_directory, BASE_FILE).unlink(missing_ok=True)
        if is_main_process and self.stop_heads is not None:
            self.stop_heads.save(save_directory)
        elif is_main_process:
            Path(save_directory, HEADS_FILE).unlink(missing_ok=True)


def check_template(processor: Any, place: str) -> None:
    """Render a question by the chat template, so that a broken one is named before it is needed.

    Raises:
        LareError: If it can't be rendered.
    """
    try:
        processor.build_prompts(["?"])
    except LareError:
        raise
    except Exception as error:  # a template is a program, and may fail in any way
        raise LareError(
            f"The chat template of {place} can't be rendered ({type(error).__name__}: {_first_line(error)}); "
            "mend its chat_template.jinja, or remove it for the plain one."
        ) from error


@contextmanager
def _checked(place: str, base: Base, hub: dict[str, Any], given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Options of transformers' `from_pretrained` that put a checkpoint and its base together.

    The base's hashes are checked beside the work of the block, which takes as long. What is wrong with the base is a
    better reason than any other that the block may fail for.

    Raises:
        LareError: If the base is missing or another one; at the block's end at the latest.
    """
    config = given.get("config")
    config = config if isinstance(config, LareConfig) else LareConfig.from_pretrained(place, **hub)
    own = {name: _as_configured(value, config) for name, value in read_own(weight_files(place, hub)).items()}
    tensors, found = base_tensors_loader()(base, place, config)
    rest = {name: value for name, value in given.items() if name not in _HUB}
    with ThreadPoolExecutor(1, "hashes") as pool:
        checked = pool.submit(base.check, tensors, place, found)
        try:
            state = base.whole({name: tensors[name] for name in base.hashes}, own)
            yield {**rest, "config": config, "state_dict": state}
        finally:
            checked.result()


def _as_configured(value: Tensor, config: LareConfig) -> Tensor:
    """A weight in the configuration's type: those of a checkpoint that is passed on are kept in fewer bits."""
    kind = config.dtype
    return value.to(kind) if value.is_floating_point() and isinstance(kind, torch.dtype) else value


def loaded_if_there(place: str, hub: dict[str, Any]) -> GenerationConfig | None:
    """A checkpoint's `GenerationConfig`; None where it brings none."""
    try:
        return GenerationConfig.from_pretrained(place, **hub)
    except OSError:
        return None


def _stop_heads(place: str, config: LareConfig, hub: dict[str, Any]) -> StopHeads | None:
    """The learned stop rules beside a checkpoint's weights; None where there are none."""
    asked: dict[str, Any] = {name: value for name, value in hub.items() if name != "force_download"}
    missing = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    path = cached_file(place, HEADS_FILE, **asked, **missing)
    return None if path is None else StopHeads.load(path, int(config.text_config.hidden_size))


def loaded(what: str, place: str, load: Callable[[], T], mend: str) -> T:
    """Call one of transformers' loaders; whatever goes wrong becomes one sentence.

    Args:
        what: What is loaded, such as "a tokenizer".
        place: Its folder or hub id, for the message.
        load: The loader.
        mend: What to give instead.

    Raises:
        LareError: If the loader fails.
    """
    try:
        with quiet():
            return load()
    except _FAILURES as error:
        reason = " ".join(str(error).split())[:200]
        raise LareError(f"{what} can't be loaded from {place!r} ({reason}); give {mend}") from error


def loaded_whole(
    what: str, place: str, load: Callable[[], Any], mend: str, needless: tuple[str, ...] = ()
) -> PreTrainedModel:
    """Call a loader of weights, and check that none is missing.

    Args:
        what: What is loaded, with its article, such as "a decoder".
        place: Its folder or hub id, for the message.
        load: The loader, which returns the model and transformers' loading information.
        mend: What to give instead.
        needless: Beginnings of names that may be missing.

    Raises:
        LareError: If the loader fails, or weights are missing or misshapen.
    """
    model, info = loaded(what, place, load, mend)
    missing = sorted(key for key in info.get("missing_keys", ()) if not key.startswith(needless))
    missing += sorted(str(key) for key in info.get("mismatched_keys", ()))
    if missing:
        kind = what.split(" ", 1)[1]
        raise LareError(f"the {kind} {place!r} lacks {len(missing)} weights, such as {missing[0]}; give a complete one")
    whole: PreTrainedModel = model
    return whole


@contextmanager
def quiet() -> Iterator[None]:
    """Hold transformers' warnings back."""
    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _check_model_type(place: str, expected: str, hub: dict[str, Any]) -> None:
    try:
        values, _ = PreTrainedConfig.get_config_dict(place, **hub)
    except (OSError, ValueError) as error:
        raise LareError(
            f"There is no readable checkpoint at {place} ({_first_line(error)}); "
            "give a directory or hub id that save_pretrained has written."
        ) from error
    found = values.get("model_type") if isinstance(values, dict) else None
    if found != expected:
        raise LareError(f"{place} holds a model of type {found!r}, not {expected!r}; give a LaRe checkpoint.")


def _check_complete(place: str, info: dict[str, Any]) -> None:
    problems = {
        "missing": info.get("missing_keys"),
        "unknown": info.get("unexpected_keys"),
        "misshapen": info.get("mismatched_keys"),
    }
    for kind, found in problems.items():
        if found:
            names = sorted(str(name[0] if isinstance(name, tuple) else name) for name in found)
            shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
            raise LareError(
                f"The checkpoint {place} does not fit its configuration: {kind} weights {shown}; "
                "save it again with save_pretrained, or load the checkpoint that belongs to this configuration."
            )
    if info.get("error_msgs"):
        raise LareError(f"The checkpoint {place} can't be loaded: {_first_line(ValueError(info['error_msgs'][0]))}")
