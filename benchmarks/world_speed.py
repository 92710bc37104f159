"""How fast the embedded world makes training data: scenes with 16 questions a second, on one core.

A scene is sampled, rendered to 128 x 128 pixels, and asked 16 questions of all families and formats, each with options,
rationale and boxes. Target: at least 250 a second. A second row leaves the rendering out.
"""

from __future__ import annotations

import itertools
import sys

from benchmarks.common import Options, Result, Side, main, rate

SCENES, QUESTIONS = 100, 16


def measure(options: Options) -> list[Result]:
    """Time the generator with and without rendering."""
    from lare.embedded.world.items import STYLES, ItemSampler
    from lare.embedded.world.questions import FAMILIES
    from lare.embedded.world.render import render
    from lare.embedded.world.scene import sample_scene

    sampler = ItemSampler(dict.fromkeys(FAMILIES, 1.0), dict.fromkeys(STYLES, 1.0), seed=0)
    seeds = itertools.count()

    def make(pixels: bool) -> None:
        for seed in itertools.islice(seeds, SCENES):
            scene = sample_scene("train", seed)
            if len(sampler.sample(scene, QUESTIONS)) != QUESTIONS:
                raise RuntimeError(f"scene {seed} gave fewer than {QUESTIONS} questions")
            if pixels:
                render(scene)

    details = {"scenes_a_run": SCENES, "questions": QUESTIONS}
    return [
        rate(
            "world_speed",
            Side("scene, picture, 16 questions", lambda: make(True), SCENES),
            options,
            at_least=250,
            unit="scenes",
            details=details,
        ),
        rate(
            "world_speed no picture",
            Side("scene, 16 questions", lambda: make(False), SCENES),
            options,
            at_least=250,
            unit="scenes",
            details=details,
        ),
    ]


if __name__ == "__main__":
    sys.exit(main("world_speed", __doc__ or "", measure))
