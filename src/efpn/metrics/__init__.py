"""Detection metrics that know neither models nor data: COCO's and TT100K's protocols on plain arrays and dicts."""

from efpn.metrics.bands import COCO_BANDS, TT100K_BINS, Bands
from efpn.metrics.coco import coco_metrics, restrict
from efpn.metrics.score import best_f1_threshold, metric_names, rates, score

__all__ = [
    "COCO_BANDS",
    "TT100K_BINS",
    "Bands",
    "best_f1_threshold",
    "coco_metrics",
    "metric_names",
    "rates",
    "restrict",
    "score",
]
