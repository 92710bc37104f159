"""Where each step looks, and whether that is where the needed thing is (Fig. 3)."""
