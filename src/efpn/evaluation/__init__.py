"""From a run, or a result file, to what an evaluation leaves behind: plan, detect or read, score, show."""
