"""What the models cost: inference, training steps, the loader, and the price of small proposals (benchmark.py)."""
