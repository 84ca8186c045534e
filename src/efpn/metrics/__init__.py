"""Detection metrics that know neither models nor data: COCO's and TT100K's protocols on plain arrays and dicts."""
