"""A training run, from config to checkpoint."""
