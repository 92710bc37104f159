"""What the analyses share: command line, traces, asking a model again, statistics, plots, the report."""
