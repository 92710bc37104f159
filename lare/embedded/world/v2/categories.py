"""Which question families of version 2 stand for the categories of MMBench, MMStar and ScienceQA."""

from __future__ import annotations

__all__ = ["MMBENCH", "MMSTAR", "SCIENCEQA"]

Categories = dict[str, tuple[str, dict[str, float]]]

MMBENCH: Categories = {
    "object_localization": ("finegrained_perception (instance-level)", {"where": 1.0, "what_at": 0.5}),
    "attribute_recognition": (
        "finegrained_perception (instance-level)",
        {"colour": 0.5, "direction": 0.7, "digit": 1.0, "size": 0.3, "chain_attribute": 1.0},
    ),
    "attribute_comparison": ("finegrained_perception (cross-instance)", {"larger_digit": 1.0, "more": 1.0}),
    "spatial_relationship": (
        "finegrained_perception (cross-instance)",
        {
            "beside1": 0.6,
            "beside2": 1.0,
            "beside3": 1.0,
            "beside4": 1.0,
            "beside5": 1.0,
            "beside6": 1.2,
            "further": 0.5,
        },
    ),
    "function_reasoning": ("attribute_reasoning", {"function": 1.0}),
    "action_recognition": (
        "relation_reasoning",
        {"gaze1": 0.6, "gaze2": 1.0, "gaze3": 1.2, "gaze4": 1.5, "gaze5": 1.8, "gaze6": 2.4},
    ),
}
"""MMBench's category -> its L2 category and the question families that stand for it."""

MMSTAR: Categories = {
    "coarse perception": ("image style & quality", {"common_colour": 1.0, "what_at": 0.3}),
    "fine-grained perception": ("attribute & celebrity recognition", {"direction": 0.7, "digit": 1.0, "size": 0.4}),
    "instance reasoning": ("single-instance reasoning", {"gaze1": 0.7, "gaze2": 1.0, "chain_attribute": 1.0}),
    "logical reasoning": (
        "code & sequence reasoning",
        {"gaze3": 1.0, "gaze4": 1.4, "gaze5": 1.8, "gaze6": 2.4}
        | {"beside3": 0.7, "beside4": 0.7, "beside5": 0.8, "beside6": 1.0},
    ),
    "science & technology": ("biology & chemistry & physics", {"function": 1.0}),
    "math": ("numeric commonsense & calculation", {"count": 1.0, "larger_digit": 0.7, "more": 0.7}),
}
"""MMStar's core ability -> an l2 category and the question families that stand for it."""

SCIENCEQA = {
    "function": 1.0,
    "count": 0.5,
    "gaze1": 0.4,
    "gaze2": 0.6,
    "gaze3": 0.6,
    "gaze4": 0.6,
    "gaze5": 0.7,
    "gaze6": 0.9,
}
"""The families that stand for ScienceQA, which has no categories here."""
