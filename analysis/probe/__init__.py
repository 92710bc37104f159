"""Probing (Table 6, Appendix B): what latents tell about the rationale and about what was looked at.

`instances` makes the vectors, `pairs` the pairs, `projection` the 256 dimensions, `classifiers` and `mdl` judge,
`experiment` puts one seed together, `tables` says what came out.
"""
