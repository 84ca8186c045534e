"""Runs on disk: phases, folders, checkpoints; what training writes and evaluation reads."""
