"""Training of the embedded model and, for any backbone, the plain loop it is made with."""
