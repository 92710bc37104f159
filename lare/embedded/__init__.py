"""The embedded world and the recipe of its checkpoints; nothing else in `lare` needs it."""
