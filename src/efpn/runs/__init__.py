"""Runs on disk: phases, folders, checkpoints and handovers; what training writes and evaluation reads."""
