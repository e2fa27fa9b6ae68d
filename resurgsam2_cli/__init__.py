"""The command line of ReSurgSAM2: video and text in, masks out."""

__version__ = "0.1.0"
