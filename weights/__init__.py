"""Where weights come from: published checkpoints, CLIP's text tower, our single-file releases, and the cache.

``loader`` turns files into networks, ``store`` finds the files, ``key_map`` renames published tensors. The package
imports ``model`` and never the command line; only ``store`` does not import torch.
"""
