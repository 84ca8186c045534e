"""A finished run on pictures without annotations: which pictures, by which windows, and what is written."""
