"""Each claim of the paper, with what is measured here and a verdict."""
