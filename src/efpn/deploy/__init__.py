"""A trained detector as one file that runs without this package: ONNX or ``torch.export``, checked when it is made."""
