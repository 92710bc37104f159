"""The losses beside L_lm: alignment (eq. 6), image reconstruction (eq. 7), where to look; one file each."""
