"""LaRe on one accelerator card, in at most eight minutes and without a network.

python -m benchmarks.gpu                     the card that torch finds; writes reports/benchmarks/gpu/CARD.json
python -m benchmarks.gpu --small             tiny sizes on any device, in seconds: whether the script itself works

Every part is a function; one that fails is recorded with its error and the next goes on, one for which no time is left
is recorded as left out. No part names a kind of device.

- placement: model, key-value cache and trace stay on the device and in the type they were put in
- capture: a prefill that keeps attention rows against plain SDPA and flash attention
- generate: K = 4 against K = 0 and transformers' LLaVA of the same weights, by batch
- train: a stage-III step at 0.5B with and without adapters: seconds, share of the card's matrix products, peak memory
- resume: whether two updates after a restored state are those that follow without one, bit by bit, and why if not
- compiled: one decoding step over a static cache, as it is, by torch.compile, and with CUDA graphs
"""

from __future__ import annotations

import argparse
import copy
import inspect
import json
import platform
import re
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import PreTrainedConfig, StaticCache

from benchmarks.against_llava import llava_answer, llava_twin
from benchmarks.device import peak_bytes, seconds
from benchmarks.generating import answer
from benchmarks.models import SMALL, Batch, Size, lare_config, make_batch, text_config
from lare.backbones.published import FULL_SIZE
from lare.errors import LareError
from lare.loading import usable_device
from lare.model import LareForConditionalGeneration
from lare.model.attention import LastQueryCapture
from lare.model.loop import embed_prompt, prefill
from lare.training.model import TrainingModel
from lare.training.plan.stages import STAGES, freeze_all_but

NEW_TOKENS, TARGET_TOKENS, PREFIX_TOKENS = 32, 64, 32
_TINY = Size(hidden=64, layers=2, heads=4, inner=96, vocabulary=512)


@dataclass(frozen=True)
class Setting:
    """What is measured.

    Attributes:
        device: Where.
        kind: Type of the weights that answer.
        text: The decoder's configuration.
        batches: Rows at once.
        train_batch: Rows of a training step.
        rounds: Times that each thing is timed.
        product: Side of the matrix product that stands for the card's speed.
        small: Whether sizes are tiny.
    """

    device: torch.device
    kind: torch.dtype
    text: PreTrainedConfig
    batches: Sequence[int]
    train_batch: int
    rounds: int
    product: int
    small: bool


def setting(device: torch.device, small: bool) -> Setting:
    """Sizes of a measurement: Qwen2.5-0.5B's, or tiny ones."""
    if small:
        return Setting(device, torch.float32, text_config(_TINY), (1, 2), 2, 1, 64, True)
    text = FULL_SIZE["Qwen/Qwen2.5-0.5B-Instruct"].config()
    return Setting(device, torch.bfloat16, text, (1, 16, 64), 8, 5, 8192, False)


# Helpers ------------------------------------------------------------------------------------------------------------


def _model(use: Setting, **changes: Any) -> LareForConditionalGeneration:
    torch.manual_seed(0)
    size = _TINY if use.small else SMALL
    config = lare_config(size, text_config=copy.deepcopy(use.text), **changes)
    return LareForConditionalGeneration(config).eval().to(use.device)


def _prompts(model: LareForConditionalGeneration, batch: int, latent: bool) -> Batch:
    made = make_batch(model.config, batch)
    made = made.ending_in(model.config.latent_start_id) if latent else made
    weight = next(model.parameters())
    pixels = made.pixel_values.to(weight.device, weight.dtype)
    return replace(
        made,
        input_ids=made.input_ids.to(weight.device),
        attention_mask=made.attention_mask.to(weight.device),
        pixel_values=pixels,
    )


# Parts --------------------------------------------------------------------------------------------------------------


def placement(use: Setting) -> dict[str, Any]:
    """Where the tensors of an answer are, and in which type."""
    model = _model(use).to(use.kind)
    prompts = _prompts(model, 2, latent=True)
    inputs = {name: getattr(prompts, name) for name in ("input_ids", "attention_mask", "pixel_values")}
    with torch.inference_mode():
        out = model.generate(**inputs, max_new_tokens=4, iterations=4, output_trace=True, eos_token_ids=[])
        visual = model.encode_images(prompts.pixel_values)
        state = prefill(model, prompts.input_ids, prompts.attention_mask, visual)
    layers: Any = state.cache.layers
    cached = [value for layer in layers for value in (layer.keys, layer.values)]
    answers = {name: value for name, value in vars(out).items() if isinstance(value, Tensor)}
    told = {
        "weights": _places([*model.parameters(), *model.buffers()]),
        "cache": _places(cached),
        "answers": {name: _places([value])[0] for name, value in answers.items()},
    }
    made = [*model.parameters(), *model.buffers(), *cached, out.sequences]
    kinds = {value.dtype for value in (*model.parameters(), *cached)}
    right = {value.device.type for value in made} == {use.device.type} and kinds == {use.kind}
    return told | {"right": right}


def _places(tensors: Sequence[Tensor]) -> list[str]:
    """Device and type of tensors, each pair once."""
    return sorted({f"{value.device.type} {str(value.dtype).rpartition('.')[2]}" for value in tensors})


def capture(use: Setting) -> dict[str, Any]:
    """Seconds of a prefill with attention rows kept, and of transformers' own with several kernels."""
    model = _model(use).to(use.kind)
    peer = type(model.decoder)._from_config(copy.deepcopy(model.config.text_config), attn_implementation="sdpa").eval()
    peer.load_state_dict(model.decoder.state_dict())
    peer.to(use.device, use.kind)
    found: dict[str, Any] = {}
    for batch in use.batches[:2]:
        prompts = _prompts(model, batch, latent=True)
        with torch.inference_mode():
            embeds, _ = embed_prompt(model, prompts.input_ids, model.encode_images(prompts.pixel_values))

            def captured(embeds: Tensor = embeds) -> Tensor:
                kept = LastQueryCapture()
                model.decoder(inputs_embeds=embeds, use_cache=True, **kept.keywords())
                return kept.mean_row()

            def plain(embeds: Tensor = embeds) -> object:
                return peer(inputs_embeds=embeds, use_cache=True)

            row = {"captured": seconds(captured, use.device, use.rounds)}
            row["sdpa"] = seconds(plain, use.device, use.rounds)
            try:
                with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
                    row["flash"] = seconds(plain, use.device, use.rounds)
            except RuntimeError as error:  # a type, shape or device that it does not take
                found[f"no flash, batch {batch}"] = _first_line(error)
        found[f"batch {batch}"] = row | {"captured / sdpa": row["captured"] / row["sdpa"]}
    return found


def generate(use: Setting) -> dict[str, Any]:
    """Seconds and tokens a second of answers by batch."""
    model = _model(use).to(use.kind)
    twin = llava_twin(model).to(use.device, use.kind)
    found: dict[str, Any] = {}
    for batch in use.batches:
        latent, plain = _prompts(model, batch, latent=True), _prompts(model, batch, latent=False)
        sides: dict[str, Callable[[], object]] = {
            "LaRe K=4": lambda p=latent: answer(model, p, NEW_TOKENS, iterations=4),
            "LaRe K=0": lambda p=plain: answer(model, p, NEW_TOKENS, iterations=0, delimiters=False),
            "LLaVA": lambda p=plain: llava_answer(twin, p),
        }
        times = {name: seconds(run, use.device, max(use.rounds // 2, 1)) for name, run in sides.items()}
        rates = {f"{name} tokens/s": batch * NEW_TOKENS / spent for name, spent in times.items()}
        ratios = {"K=4 / K=0": times["LaRe K=4"] / times["LaRe K=0"], "K=0 / LLaVA": times["LaRe K=0"] / times["LLaVA"]}
        found[f"batch {batch}"] = times | rates | ratios
    return found


class Step:
    """A stage-III update on one batch: K = 4, answers and the text prefix (eq. 8), AdamW.

    Args:
        use: Sizes.
        changes: Fields of `LareConfig`.
    """

    def __init__(self, use: Setting, **changes: Any) -> None:
        self.use, self.model = use, _model(use, **changes).train()
        chosen = freeze_all_but(TrainingModel(self.model, 0), STAGES["III"].parts)
        self.weights = [weight for _, weight in chosen]
        self.optimiser = torch.optim.AdamW(self.weights, lr=1e-5)
        prompts = _prompts(self.model, use.train_batch, latent=True)
        generator = torch.Generator().manual_seed(1)
        top = int(use.text.vocab_size) - 8
        ids = torch.randint(8, top, (use.train_batch, TARGET_TOKENS), generator=generator).to(use.device)
        with torch.no_grad():
            features = self.model.vision_tower(prompts.pixel_values)
        self.batch: dict[str, Any] = dict(input_ids=prompts.input_ids, attention_mask=prompts.attention_mask)
        self.batch |= dict(visual_features=features, target_ids=ids, prefix_ids=ids[:, :PREFIX_TOKENS], iterations=4)

    def __call__(self) -> None:
        """Make the update."""
        on = nullcontext() if self.use.small else torch.autocast(self.use.device.type, torch.bfloat16)
        with on:
            out = self.model(**self.batch)
        loss = out.lm_loss[0] / out.lm_loss[1] + 0.5 * out.prefix_loss[0] / out.prefix_loss[1]
        loss.backward()
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)


def _products(use: Setting) -> float:
    """Operations a second of one large matrix product, which stands for the card's speed."""
    square = torch.randn(use.product, use.product, device=use.device, dtype=use.kind)
    return 2.0 * use.product**3 / seconds(lambda: square @ square, use.device, use.rounds)


def train(use: Setting) -> dict[str, Any]:
    """Seconds, share of the card's products, and peak memory of a training step with and without adapters."""
    peak = _products(use)
    found: dict[str, Any] = {"products FLOP/s": peak, "rows": use.train_batch}
    for name, changes in {"all weights": {}, "adapters": {"lora": {"rank": 16}}}.items():
        step = Step(use, **changes)
        with FlopCounterMode(display=False) as counter:
            step()
        peak_bytes(use.device, reset=True)
        spent = seconds(step, use.device, use.rounds)
        work = float(counter.get_total_flops())
        found[name] = {
            "seconds": spent,
            "FLOP/s": work / spent,
            "of products": work / spent / peak,
            "peak bytes": peak_bytes(use.device),
            "trained": sum(weight.numel() for weight in step.weights),
        }
        del step
    return found


def resume(use: Setting) -> dict[str, Any]:
    """Whether updates after a restored state are those that follow without one."""
    step = Step(replace(use, train_batch=2), lora={"rank": 4})
    step()
    kept = [weight.detach().clone() for weight in step.weights], copy.deepcopy(step.optimiser.state_dict())
    ends = []
    for strict in (False, True):
        torch.use_deterministic_algorithms(strict, warn_only=True)
        try:
            pair = []
            for _ in range(2):
                with torch.no_grad():
                    for weight, value in zip(step.weights, kept[0], strict=True):
                        weight.copy_(value)
                step.optimiser.load_state_dict(copy.deepcopy(kept[1]))
                step()
                step()
                pair.append([weight.detach().clone() for weight in step.weights])
        finally:
            torch.use_deterministic_algorithms(False)
        ends.append(max(float((a - b).abs().max()) for a, b in zip(*pair, strict=True)))
    why = "kernels that add in no fixed order" if ends[0] and not ends[1] else "not known" if ends[0] else ""
    found = {"largest difference": ends[0], "with deterministic kernels": ends[1], "bit by bit": ends[0] == 0}
    return found | ({"why not": why} if why else {})


def compiled(use: Setting) -> dict[str, Any]:
    """Seconds of one decoding step over a static cache: plain, compiled, and compiled with CUDA graphs."""
    model = _model(use).to(use.kind)
    decoder = copy.deepcopy(model.decoder)
    decoder.set_attn_implementation("sdpa")
    config = copy.deepcopy(model.config.text_config)
    length = 64 if use.small else 512
    cache = StaticCache(config=config, max_cache_len=length)
    token = torch.randn(1, 1, int(config.hidden_size), device=use.device, dtype=use.kind)
    place = torch.full((1, 1), length // 2, device=use.device)
    mask = torch.zeros(1, 1, 1, length, device=use.device, dtype=use.kind)

    # transformers renamed it while 5.x lasted.
    name = "cache" if "cache" in inspect.signature(decoder.forward).parameters else "past_key_values"
    given = dict(inputs_embeds=token, position_ids=place, attention_mask=mask, use_cache=True, **{name: cache})

    def one(call: Callable[..., Any]) -> Callable[[], object]:
        def run() -> object:
            with torch.inference_mode():
                return call(**given)

        return run

    plain = seconds(one(decoder), use.device, use.rounds)
    ways = {"compiled": {}, "compiled with graphs": {"mode": "reduce-overhead"}}
    found = {"plain": plain}
    for way, options in ways.items():
        torch.compiler.reset()
        fast = torch.compile(decoder, **({"backend": "eager"} if use.small else options))
        found[way] = seconds(one(fast), use.device, use.rounds)
    return found


PARTS: dict[str, Callable[[Setting], dict[str, Any]]] = {
    one.__name__: one for one in (placement, capture, generate, train, resume, compiled)
}


def run(use: Setting, names: Sequence[str], limit: float) -> dict[str, Any]:
    """Run parts one after another.

    Args:
        use: Sizes.
        names: Of `PARTS`.
        limit: Seconds after which no further part begins.
    """
    start, found = time.perf_counter(), {}
    for name in names:
        spent = time.perf_counter() - start
        if spent > limit:
            found[name] = {"left out": f"{spent:.0f} of {limit:.0f} seconds were spent"}
            continue
        try:
            made = PARTS[name](use)
        except Exception as error:  # noqa: BLE001 - a card is lent for minutes: one part's fault must not cost the rest
            made = {"failed": f"{type(error).__name__}: {_first_line(error)}"}
        found[name] = made | {"took": time.perf_counter() - start - spent}
        print(f"{name}: {json.dumps(made)}", flush=True)
    return found


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def _card(device: torch.device) -> str:
    name = getattr(torch.get_device_module(device), "get_device_name", None)
    return str(name(device)) if name is not None else f"{device.type} {platform.machine()}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and write one JSON file named after the card; exit code 1 if a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="PART", help=f"default: all of {', '.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="tiny sizes, on any device")
    parser.add_argument("--device", help="default: the accelerator that torch finds")
    parser.add_argument("--minutes", type=float, default=7.0, help="after which no further part begins (%(default)s)")
    parser.add_argument("--out", type=Path, default=Path("reports/benchmarks/gpu"), help="folder (%(default)s)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.names) - set(PARTS))
    if unknown:
        parser.error(f"there is no part {', '.join(unknown)}; choose from {', '.join(PARTS)}")
    device = usable_device(options.device)
    if not options.small and torch.accelerator.current_accelerator(check_available=True) is None:
        raise LareError("torch finds no accelerator here; add --small to try the script on a processor")
    found = run(setting(device, options.small), options.names or list(PARTS), 60 * options.minutes)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / (re.sub(r"[^a-z0-9]+", "_", _card(device).lower()).strip("_") + ".json")
    about = {"card": _card(device), "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "small": options.small}
    about |= {package: version(package) for package in ("torch", "transformers")}
    path.write_text(json.dumps(about | {"parts": found}, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")
    return int(any("failed" in part for part in found.values()))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LareError as error:
        sys.exit(f"gpu: {error}")
