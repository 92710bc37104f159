"""Fits learned stop rules on a finished model: questions, what is seen after each step, heads, thresholds.

The model stays as it is. Heads are fitted on training questions and their thresholds chosen on validation questions;
both lie beside the checkpoint afterwards (`lare.model.stop_head`).
"""
