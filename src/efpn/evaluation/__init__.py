"""From detections to what a run leaves behind: scores, report files, comparison tables."""
