"""Where weights come from: published checkpoints, CLIP's text tower, our single-file releases, and the cache.

Imports ``model`` and never the command line.
"""

from weights.errors import WeightsError
from weights.loader import WeightsInfo, load_network

__all__ = ["WeightsError", "WeightsInfo", "load_network"]
