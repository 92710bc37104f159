"""What a run costs before it is started: parameters, memory and FLOPs, from shapes alone."""
