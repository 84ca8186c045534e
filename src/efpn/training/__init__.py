"""A training run, from config to handover."""
