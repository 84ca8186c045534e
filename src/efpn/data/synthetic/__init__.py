"""Drawn street signs: the data set that needs no download, and the one that tests and the demo run on."""

from efpn.data.synthetic.source import Synthetic

__all__ = ["Synthetic"]
