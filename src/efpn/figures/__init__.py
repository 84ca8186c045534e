"""Pictures of what a detector does, from plain arrays; files are written without a display."""
