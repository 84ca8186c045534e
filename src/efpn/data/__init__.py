"""Data sets, transforms and the data module; knows nothing of models.

The annotation readers and checks (`records`, `tt100k`, `coco`, `splits`, `images`, `check`, `balance`) import no torch,
so that a command line can answer a mistake in a data set at once. This file therefore imports nothing.
"""
