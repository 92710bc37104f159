"""Memory that a stage needs, in bytes of one process.

Without sharding: 4 bytes a parameter for weights (training keeps them in float32, also those that are frozen), 4 a
trained one for gradients and 8 for AdamW's two moments, and two things that are estimates:

- Under autocast to bf16 or fp16 each matrix is also held in that type for the backward pass. PyTorch keeps one copy of
  a matrix that trains, and one *for every call* of a frozen one that gradient passes through (its cache is for leaves
  that require gradient): in stage II, K + 2 copies of the decoder.
- Activations kept for the backward pass: for every layer of a decoder call with gradient, d, f, q, k being the widths
  of model, MLP, all queries and all keys: tokens * (26 d + 4 q + 4 k + 8 f) bytes where the decoder trains,
  tokens * (8 d + 4 q + 4 k + 6 f) where it is frozen, plus 4 k bytes for each position attended to (in fp32 twice as
  much, less the copies of inputs); and 10 bytes a logit. U-Net and Extractor are left out.

- With gradient checkpointing: of the decoder 4 d bytes a token and layer, the bytes for positions attended to, and what
  stands above for one layer alone; and one copy of its matrices at most.

- A base in 8 or 4 bits takes that many bits a weight of the decoder's linear layers, and no copies: they are unpacked
  for each product. Muon has one moment of a matrix inside the network.

On decoders of 4 and 6 layers the sum of the two was 0.89 to 0.98 of the bytes that autograd kept, in each stage, fp32
and bf16; fp16 keeps as many. On CPUs attention over few queries keeps its inputs in float32 (`lare.model.attention`),
which is left out.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from lare.backbones.quantised import BITS
from lare.cost.flops import Gradients, Row, decoder_calls, layer_weights
from lare.model import LareForConditionalGeneration
from lare.model.lora import LORA_MARK
from lare.training.optimiser.optim import is_inner

__all__ = ["memory_of", "parameter_count", "sharded"]

_BYTES = 4  # of a float32


def parameter_count(module: nn.Module) -> int:
    """Number of parameters."""
    return sum(parameter.numel() for parameter in module.parameters())


def memory_of(
    modules: Mapping[str, nn.Module],
    model: LareForConditionalGeneration,
    row: Row,
    grad: Gradients,
    rows: int,
    half: bool,
    checkpointing: bool = False,
    quantise: str | None = None,
    matrices: str = "adamw",
) -> dict[str, int]:
    """Bytes of one process by what they hold; the module's docstring has the formulas.

    Args:
        modules: All parts by name.
        model: The model among them.
        row: Lengths of a row.
        grad: Where gradient flows.
        rows: Rows of a forward pass.
        half: Whether it runs under autocast, in bf16 or fp16.
        checkpointing: Whether the decoder's inner activations are made again in the backward pass.
        quantise: How the frozen decoder's linear layers are held (`lare.backbones.quantised`); None is in float32.
        matrices: The optimiser of the matrices inside the network (`OptimiserConfig`).
    """
    trained = sum(parameter_count(module) for name, module in modules.items() if name in grad.parts)
    calls = [call for call in decoder_calls(row, grad, model.config.latents_per_iteration) if call.gradient]
    text = model.config.text_config
    heads, width = int(text.num_attention_heads), int(text.hidden_size)
    queries = heads * int(getattr(text, "head_dim", None) or width // heads)
    keys = queries * int(getattr(text, "num_key_value_heads", None) or heads) // heads
    inner = 4 * queries + 4 * keys + (8 if grad.decoder else 6) * int(text.intermediate_size)
    stream = 26 if grad.decoder else 8
    if not half:
        inner, stream = 2 * inner, 24 if grad.decoder else 8
    token = stream * width + inner
    spread = (4 if half else 8) * keys
    kept = model.num_layers * sum(call.tokens * token + call.keys * spread for call in calls)
    if checkpointing:  # a hidden state in float32, keys and values of every layer; and one layer's inside at a time
        kept = model.num_layers * sum(call.tokens * 4 * width + call.keys * spread for call in calls)
        kept += max((call.tokens * token for call in calls), default=0)
    logits = 10 * (row.target + row.prefix) * int(text.vocab_size)
    copies = 1 if grad.decoder or checkpointing else len(calls)
    cast_weights = sum(layer_weights(m) for n, m in modules.items() if n in grad.parts and n != "language_model")
    held = 0 if quantise is None else _base_weights(model.decoder)
    cast_weights += (
        copies * (layer_weights(model.decoder) - held) + _head_copies(row, grad) * int(text.vocab_size) * width
    )
    return {
        "weights": _BYTES * sum(parameter_count(module) for module in modules.values())
        - (0 if quantise is None else int(held * (_BYTES - BITS[quantise] / 8))),
        "gradients": _BYTES * trained,
        "optimiser": _BYTES * (2 * trained - (_inner(modules, model, grad) if matrices == "muon" else 0)),
        "autocast": 2 * cast_weights if half else 0,
        "activations": rows * (kept + logits),
    }


def _base_weights(decoder: nn.Module) -> int:
    """Entries of the decoder's linear layers without adapters."""
    named = decoder.named_modules()
    return sum(one.weight.numel() for name, one in named if isinstance(one, nn.Linear) and LORA_MARK not in f"{name}.")


def _inner(modules: Mapping[str, nn.Module], model: LareForConditionalGeneration, grad: Gradients) -> int:
    """Trained entries that Muon takes: it has one moment, not two."""
    outside = {id(one) for name, one in model.named_parameters() if not is_inner(name, one)}
    trained = [module for name, module in modules.items() if name in grad.parts]
    named = [pair for module in trained for pair in module.named_parameters()]
    return sum(one.numel() for name, one in named if is_inner(name, one) and id(one) not in outside)


def _head_copies(row: Row, grad: Gradients) -> int:
    return 1 if grad.decoder else 1 + bool(row.prefix)


def sharded(memory: Mapping[str, int], processes: int) -> int:
    """Bytes of one process under ``lare/configs/accelerate/fsdp.yaml``.

    Weights, gradients and moments are split; a pass gathers all weights in bf16 and holds whole gradients in bf16 until
    they are scattered. No other copies of weights are made.
    """
    states = sum(memory[name] for name in ("weights", "gradients", "optimiser"))
    return states // processes + (memory["weights"] + memory["gradients"]) // 2 + memory["activations"]
