"""File names inside a run's folder; apart from torch, so that a command line can look for them at once."""

RESUME_FILE = "last.ckpt"
HANDOVER_FILE = "handover.ckpt"
CONFIG_FILE = "config.yaml"
METRICS_FILE = "metrics.json"
LOCK_FILE = ".lock"
ROW_FILE = "row.json"  # in the folder of a sweep's job: which row of a table it is
