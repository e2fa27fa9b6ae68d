"""Training with its files: data, the loop, validation, curves, and rendered scenes on disk."""
