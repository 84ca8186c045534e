"""LightningModules, one per kind of training."""

from efpn.tasks.detection import DetectionTask
from efpn.tasks.distillation import DistillationTask

__all__ = ["DetectionTask", "DistillationTask"]
