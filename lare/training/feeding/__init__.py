"""From data on disk to the micro-batches of an update."""
