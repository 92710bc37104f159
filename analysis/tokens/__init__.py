"""Text tokens, latent steps and seconds (Table 1)."""
