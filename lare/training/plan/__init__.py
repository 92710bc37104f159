"""A run's typed configuration and the paper's four stages."""
