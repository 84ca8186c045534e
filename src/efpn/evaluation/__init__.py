"""From a run, or a result file, to what an evaluation leaves behind: plan, detect or read, score, show.

What was scored is one `efpn.metrics.evaluation.Evaluation` a row, in memory; the files are its views.
"""
