"""The vocabulary of the embedded world: named drawings in eight categories, shapes, colours, sizes, directions.

The 64 drawings were chosen for how well they can be told apart across the three *training* vendors only
(leave-one-vendor-out nearest prototypes); the test vendor took no part in the choice.
"""

from __future__ import annotations

CATEGORIES: dict[str, tuple[str, ...]] = {
    "animal": ("panda", "spider", "ladybug", "rabbit", "frog", "butterfly", "elephant", "whale"),
    "fruit": ("watermelon", "blueberry", "apple", "strawberry", "pear", "orange", "grape", "pineapple"),
    "food": ("cookie", "donut", "cheese", "pretzel", "egg", "lollipop", "bacon", "popcorn"),
    "vehicle": ("bike", "canoe", "boat", "rocket", "plane", "helicopter", "train", "car"),
    "tool": ("paperclip", "broom", "ladder", "key", "wrench", "bucket", "magnet", "scissors"),
    "garment": ("jeans", "bag", "dress", "glasses", "tie", "shirt", "hat", "boot"),
    "plant": ("cactus", "tree", "mushroom", "leaf", "blossom", "clover", "palm", "rose"),
    "weather": ("rainbow", "drop", "snowflake", "moon", "star", "bolt", "cloud", "sun"),
}
"""Category name -> its eight drawings, the world's kinds 0..63 in this order."""

FUNCTIONS: dict[str, str] = {
    "animal": "breathes",
    "fruit": "ripens",
    "food": "is cooked",
    "vehicle": "carries people",
    "tool": "does work",
    "garment": "is worn",
    "plant": "grows in soil",
    "weather": "is seen above",
}
"""What things of a category do: the world's piece of common knowledge."""

DRAWINGS: tuple[str, ...] = tuple(name for names in CATEGORIES.values() for name in names)
SHAPES: tuple[str, ...] = ("circle", "square", "triangle", "cross")
TILE = "tile"
KINDS: tuple[str, ...] = (*DRAWINGS, *SHAPES, TILE)
"""All kinds: 64 drawings, 4 shapes, and the tile that bears a handwritten digit."""

N_DRAWINGS = len(DRAWINGS)
SHAPE_START = N_DRAWINGS
TILE_KIND = N_DRAWINGS + len(SHAPES)
CATEGORY_NAMES: tuple[str, ...] = tuple(CATEGORIES)
CATEGORY_OF: tuple[int, ...] = tuple(i for i, names in enumerate(CATEGORIES.values()) for _ in names)
"""Category index of each drawing kind."""

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 52, 46),
    "green": (58, 158, 70),
    "blue": (52, 92, 204),
    "yellow": (232, 204, 58),
    "purple": (146, 70, 176),
    "white": (240, 240, 236),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
SIZES: tuple[str, ...] = ("small", "large")
DIRECTIONS: tuple[str, ...] = ("up", "right", "down", "left")
STEPS: tuple[tuple[int, int], ...] = ((-1, 0), (0, 1), (1, 0), (0, -1))
"""(row, column) displacement of each direction."""
BESIDE: tuple[str, ...] = ("above", "right of", "below", "left of")
"""The preposition of each direction: `the thing BESIDE[d] the cat`."""

POPULAR: tuple[int, ...] = tuple(range(0, N_DRAWINGS, 4))
"""Kinds drawn three times as often as the others, so that `popular` negatives exist."""

VENDORS: dict[str, tuple[str, ...]] = {"train": ("google", "fluent", "openmoji"), "test": ("twemoji",)}
"""Drawing vendors per split; the validation split uses the training vendors with scenes and digits of its own."""

SOURCE_NAMES: dict[str, str] = {
    "panda": "panda_face", "rabbit": "rabbit", "elephant": "elephant", "whale": "whale", "spider": "spider",
    "ladybug": "ladybug", "frog": "frog", "butterfly": "butterfly", "blueberry": "blueberries", "orange": "tangerine",
    "grape": "grapes", "donut": "doughnut", "cheese": "cheese_wedge", "egg": "fried_egg", "boat": "boat",
    "plane": "airplane", "bag": "handbag", "glasses": "eyeglasses", "tie": "necktie", "hat": "tophat",
    "tree": "deciduous_tree", "leaf": "maple_leaf", "blossom": "cherry_blossom", "clover": "four_leaf_clover",
    "palm": "palm_tree", "drop": "droplet", "moon": "crescent_moon", "bolt": "zap", "sun": "sunny",
}  # fmt: skip
"""Our name -> the emoji short name, where they differ."""
