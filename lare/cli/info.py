"""``lare info [CHECKPOINT | RUN.yaml]``: sizes and settings of a checkpoint, or what a run needs, without weights."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lare.commands import command_parser
from lare.errors import LareError
from lare.loading import resolve_checkpoint

__all__ = ["checkpoint_info", "main", "interventions_text", "methods_text", "parameter_counts", "run_table"]

_EPILOG = """examples:
  lare info
  lare info runs/my_run/checkpoint --json
  lare info --methods
  lare info --interventions
  lare info lare/configs/qwen2_5_7b.yaml
  lare info lare/configs/qwen2_5_7b.yaml --processes 16 stages.3.micro_batch=2
"""
_ABOUT = """Print the sizes, parameter counts and settings of a LaRe checkpoint, or the parameters, memory and FLOPs of
a run file's stages."""
_RUN_FILES = (".yaml", ".yml")
_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "BF16": 2, "F16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``lare info`` and return the exit code."""
    parser = command_parser("lare info", _ABOUT, _EPILOG)
    parser.add_argument(
        "checkpoint",
        nargs="?",
        metavar="CHECKPOINT",
        help="its folder, or a run file; default: the embedded checkpoint",
    )
    parser.add_argument("changes", nargs="*", metavar="key=value", help="change a value of the run file")
    parser.add_argument("--processes", type=int, metavar="N", help="processes of the run; default: its own, or 8")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--methods", action="store_true", help="list the methods and their options instead")
    parser.add_argument("--interventions", action="store_true", help="list what can be done to latents instead")
    options = parser.parse_intermixed_args(arguments)
    if options.methods:
        print(methods_text())
        return 0
    if options.interventions:
        print(interventions_text())
        return 0
    if str(options.checkpoint).endswith(_RUN_FILES):
        return _run_info(options)
    if options.changes or options.processes is not None:
        raise LareError("key=value words and --processes are only for run files; name a .yaml file")
    info = checkpoint_info(Path(resolve_checkpoint(options.checkpoint)))
    print(json.dumps(info, indent=2) if options.json else _table(info))
    return 0


def methods_text() -> str:
    """Every method, in its own words, with its options: name, default and meaning."""
    from lare.methods import get_method, method_names

    lines = []
    for name in method_names():
        method = get_method(name)
        lines += [f"{name}: {(method.__doc__ or '').partition(chr(10))[0]}"]
        known = method.options_type.described()
        lines += [f"  {option} (default {default!r}): {help}" for option, (default, help) in known.items()]
    return "\n".join(lines)


def interventions_text() -> str:
    """Every intervention, with what it changes and what it holds fixed."""
    from lare.interventions import get_intervention, intervention_names

    lines = []
    for one in map(get_intervention, intervention_names()):
        lines += [f"{one.name}: {one.title}", f"  changes {one.changes}", f"  holds fixed {one.fixed}"]
        if not one.alone:
            lines += ["  takes other questions or boxes: python analysis/validate.py, or intervene_from=TRACES"]
    return "\n".join(lines)


def _run_info(options: argparse.Namespace) -> int:
    from lare.cost.sizes import run_report
    from lare.training.plan.run_file import load_run_config

    if options.processes is not None and options.processes < 1:
        raise LareError(f"--processes is {options.processes}; give at least 1")
    report = run_report(load_run_config(Path(options.checkpoint), options.changes), processes=options.processes)
    print(json.dumps(report, indent=2) if options.json else run_table(report))
    return 0


def checkpoint_info(folder: Path) -> dict[str, Any]:
    """Describe a checkpoint from its config.json and the headers of its weight files.

    Args:
        folder: What ``save_pretrained`` wrote.

    Returns:
        Folder, bytes on disk, the base that it names where it holds a part of its weights alone (else None), parameters
        of what it holds (total and by part), the memory in MiB that the weights take as stored, and
        the settings (the config's own fields, without its sub-configs).

    Raises:
        LareError: If the folder holds no readable config.json, is another model's, or has no safetensors weights.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LareError(
            f"{str(folder)!r} holds no readable config.json ({error}); name a checkpoint's folder"
        ) from None
    if not isinstance(config, dict) or config.get("model_type") != "lare":
        found = config.get("model_type") if isinstance(config, dict) else None
        raise LareError(f"{str(folder)!r} is a checkpoint of model type {found!r}, not 'lare'; name a LaRe checkpoint")
    shapes = _tensors(folder)
    return {
        "checkpoint": str(folder),
        "bytes_on_disk": sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
        "parameters": parameter_counts({name: shape for name, (_, shape) in shapes.items()}),
        "base": _base(folder),
        "weights_mib": round(sum(_count(shape) * _BYTES.get(kind, 4) for kind, shape in shapes.values()) / 2**20, 2),
        "text": _sizes(config.get("text_config", {})),
        "vision": _sizes(config.get("vision_config", {})),
        "settings": {name: value for name, value in sorted(config.items()) if not isinstance(value, dict)},
    }


def _base(folder: Path) -> str | None:
    """The pre-trained parts that a checkpoint leaves out."""
    if not (folder / "base.json").is_file():
        return None
    from lare.model.base_weights import read_base

    base = read_base(folder, {})
    return None if base is None else f"{base.name}; {base.mend}"


def parameter_counts(shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
    """Count parameters by the first part of their names, and in total.

    Args:
        shapes: Shape by tensor name, such as ``language_model.lm_head.weight``.
    """
    counts: dict[str, int] = defaultdict(int)
    for name, shape in shapes.items():
        part = name.removeprefix("model.").partition(".")[0]
        counts[part] += _count(shape)
    return {"total": sum(counts.values()), **dict(sorted(counts.items()))}


def _tensors(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Return storage type and shape by tensor name, read from headers alone."""
    from safetensors import SafetensorError

    from lare.files import read_header

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise LareError(f"{str(folder)!r} holds no *.safetensors weights; LaRe loads no other kind")
    tensors: dict[str, tuple[str, tuple[int, ...]]] = {}
    for file in files:
        try:
            tensors |= read_header(file)
        except (SafetensorError, OSError) as error:
            raise LareError(f"{str(file)!r} is damaged ({error}); save or download it again") from None
    return tensors


def _count(shape: Sequence[int]) -> int:
    count = 1
    for side in shape:
        count *= side
    return count


def _sizes(config: Mapping[str, Any]) -> dict[str, Any]:
    wanted = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    return {name: config[name] for name in wanted if name in config}


def _table(info: Mapping[str, Any]) -> str:
    lines = [f"checkpoint  {info['checkpoint']}", f"on disk     {info['bytes_on_disk'] / 2**20:.2f} MiB"]
    lines += [f"base        {info['base']}"] if info["base"] else []
    lines += [f"weights     {info['weights_mib']:.2f} MiB", "", "parameters"]
    lines += [f"  {part:<24} {count:>15,}" for part, count in info["parameters"].items()]
    for section in ("text", "vision", "settings"):
        lines += ["", section, *(f"  {name:<24} {value}" for name, value in info[section].items())]
    return "\n".join(lines)


def run_table(report: Mapping[str, Any]) -> str:
    """What `lare.cost.sizes.run_report` found, as text."""
    lines = ["parameters", *(f"  {part:<24} {count:>15,}" for part, count in report["parameters"].items())]
    for stage in report["stages"]:
        row, memory = stage["row"], stage["memory"]
        trained = ", ".join(f"{part} {count / 1e6:,.1f} M" for part, count in stage["trains"].items())
        rows = f"{stage['micro_batch']} rows a pass on {report['processes']} processes, {report['precision']}"
        lengths = f"{row['prompt']} prompt and {row['target']} target tokens (assumed)"
        lines += [
            "",
            f"stage {stage['name']}: batch {stage['batch']}, {rows}",
            f"  trains       {trained}",
            f"  in all       {stage['trained']:,}",
            f"  a row        {lengths}, {_steps(row)}",
            *_ways(stage["rows"]),
            f"  memory       {_held(memory, 'weights', 'gradients', 'optimiser')}",
            f"  (estimate)   {_held(memory, 'autocast', 'activations')}",
            f"  in all       {_held(memory, 'total')}, {_sharded(memory)}",
            f"  TFLOPs       {_flops(stage['flops'])}",
        ]
    return "\n".join(lines)


def _ways(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for each way of answering of a stage that has several."""
    if len(rows) == 1:
        return []
    return [
        f"    {100 * row['share']:3.0f} %      {row['prompt']} prompt and {row['target']} target tokens, {_steps(row)}"
        for row in rows
    ]


def _steps(row: Mapping[str, Any]) -> str:
    return f"{row['iterations']} {'tokens fetched' if row['fetch'] else 'latent iterations'}"


def _sharded(memory: Mapping[str, Any]) -> str:
    """Memory of a process where FSDP or DeepSpeed share the model out, if they can."""
    if memory["sharded"] is None:
        return "not sharded (FSDP and DeepSpeed train in bf16 or fp32 here, not in fp16, and no quantised base)"
    return _held(memory, "sharded")


def _held(memory: Mapping[str, Any], *names: str) -> str:
    return ", ".join(f"{name} {_short(memory[name] / 1e9)} GB" for name in names)


def _short(value: float) -> str:
    """A number with one decimal; one below 0.1 with one significant digit."""
    return f"{value:,.1f}" if not value or value >= 0.1 else f"{value:.1g}"


def _flops(flops: Mapping[str, Any]) -> str:
    forward, backward = flops["forward"], flops["backward"]
    parts = ", ".join(f"{name} {_short((forward[name] + backward[name]) / 1e12)}" for name in forward)
    total, rest = (_short(flops[name] / 1e12) for name in ("total", "without_encoder"))
    return f"{total} an update, {rest} of it without the vision encoder ({parts})"
