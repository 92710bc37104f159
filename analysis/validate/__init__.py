"""Does a latent reasoner use its latents? A suite of interventions, one report and a summary that can be cited."""
