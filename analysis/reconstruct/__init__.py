"""Whether the picture can be drawn again from what a refocus step brought (Fig. 4)."""
