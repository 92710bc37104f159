"""How attention around the first token divides over text, image and latents (Table 5)."""
