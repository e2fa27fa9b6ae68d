"""Where weights come from: published checkpoints, CLIP's text tower, our single-file releases, and the cache.

``loader`` makes networks of files, ``store`` finds and fetches the files, ``key_map`` renames published tensors.
Imports ``model`` and never the command line; ``store`` alone does not import torch.
"""
