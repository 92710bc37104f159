"""Causal controls: whether answers rest on what the latents hold."""
