"""Instances with a planted signal: latents and partners that share a common part, as strong as wanted."""

from __future__ import annotations

import numpy as np

from analysis.probe.instances import Instances


def planted(
    strength: float, images: int = 600, per_image: int = 3, width: int = 128, texts: int = 40, seed: int = 0
) -> Instances:
    rng = np.random.default_rng(seed)
    total = images * per_image
    truth = rng.normal(size=(total, width))

    def noisy() -> np.ndarray:
        return (strength * truth + rng.normal(size=(total, width))).astype(np.float32)

    latent = noisy()
    asked = np.concatenate([rng.choice(texts, per_image, replace=False) for _ in range(images)])
    return Instances(
        image=np.repeat([f"picture {number}" for number in range(images)], per_image),
        question=np.array([f"question {number}" for number in asked]),
        rationale=np.array([f"reasons {number}" for number in range(total)]),
        steps=np.stack((rng.normal(size=(total, width)).astype(np.float32), latent), 1),
        latent=latent,
        text=noisy(),
        vision=noisy(),
        looked=np.arange(total),
    )
