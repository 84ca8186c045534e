"""EFPN: the Extended Feature Pyramid Network for small object detection.

Importing this package imports neither torch nor Lightning, so that a command line can answer a typing error at once.
"""

__version__ = "0.2.0"
