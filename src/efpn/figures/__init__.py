"""Figures of what detectors do, from evaluations and plain arrays; files are written without a display."""

import matplotlib

matplotlib.rcParams["text.parse_math"] = False  # a $ in the name of a class or a run begins no formula
