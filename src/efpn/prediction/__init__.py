"""A finished run on images without annotations: which images, by which windows, and what is written."""
