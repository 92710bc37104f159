"""What the latent loop adds to a training step: forward, backward and update.

Left: K = 4 with text-prefix reconstruction (eq. 8). Right: the same samples, prompts and targets without latents and
without that loss. Cached encoder features, a prompt of 256 + 64, targets of 64 tokens, a prefix of 32. Target: at most
1.35.
"""

from __future__ import annotations

import sys

import torch

from benchmarks.common import Options, Result, Side, compare, main
from benchmarks.models import BASE, SMALL, Size, lare_model, make_batch

TARGET_TOKENS, PREFIX_TOKENS = 64, 32


def _case(name: str, size: Size, batch: int, options: Options, reconstruct: bool) -> Result:
    model = lare_model(size).train()
    config = model.config
    prompts = make_batch(config, batch).ending_in(config.latent_start_id)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        features = model.vision_tower(prompts.pixel_values)
    targets = torch.randint(8, size.vocabulary - 8, (batch, TARGET_TOKENS), generator=generator)
    prefix = torch.randint(8, size.vocabulary - 8, (batch, PREFIX_TOKENS), generator=generator)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5, fused=True)

    def step(iterations: int) -> None:
        output = model(
            input_ids=prompts.input_ids,
            attention_mask=prompts.attention_mask,
            visual_features=features,
            target_ids=targets,
            prefix_ids=prefix if iterations and reconstruct else None,
            iterations=iterations,
        )
        total, count = output.lm_loss
        loss = total / count
        if output.prefix_loss is not None:
            loss = loss + 0.5 * output.prefix_loss[0] / output.prefix_loss[1]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return compare(
        name,
        Side("K=4 + eq. 8" if reconstruct else "K=4", lambda: step(4)),
        Side("K=0", lambda: step(0)),
        options,
        at_most=1.35,
        details={"batch": batch, "positions": prompts.input_ids.shape[1], "target_tokens": TARGET_TOKENS},
    )


def measure(options: Options) -> list[Result]:
    """Time training steps."""
    return [
        _case("training_step 7M b8", SMALL, 8, options, reconstruct=False),
        _case("training_step 7M b8 eq. 8", SMALL, 8, options, reconstruct=True),
        _case("training_step 36M b4 eq. 8", BASE, 4, options, reconstruct=True),
    ]


if __name__ == "__main__":
    sys.exit(main("training_step", __doc__ or "", measure))
