"""Training of LaRe models: plan, data feeding, update, optimiser, distribution over processes, checkpoints."""
