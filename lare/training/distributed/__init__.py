"""How weights lie in several processes: replicated, FSDP2, DeepSpeed."""
