"""AdamW and Muon, their parameter groups and learning-rate schedule."""
