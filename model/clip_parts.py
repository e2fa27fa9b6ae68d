"""Modules of open_clip, without what its package loads beside them.

``import open_clip`` loads torchvision, timm and PyTorch's compiler for encoders of images, and takes longer than
PyTorch itself. The tokenizer and the text tower need none of it. So the package's own module is left out, and one class
of torchvision that ``open_clip.utils`` names for image encoders has a stand-in. Nothing of this stays behind: whoever
imports open_clip or torchvision gets the whole.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import threading
from functools import cache
from types import ModuleType

from torch import nn

_PACKAGE = "open_clip"
_IMAGES = ("torchvision", "torchvision.ops", "torchvision.ops.misc")
_lock = threading.Lock()


@cache
def clip_part(name: str) -> ModuleType:
    """The module ``open_clip.<name>``. Raises ``ImportError``."""
    with _lock:
        if _PACKAGE not in sys.modules:
            try:
                return _alone(name)
            except (ImportError, AttributeError):  # a version that is built in another way
                pass
        return importlib.import_module(f"{_PACKAGE}.{name}")


def _alone(name: str) -> ModuleType:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.submodule_search_locations is None:
        raise ImportError(_PACKAGE)
    package = ModuleType(_PACKAGE)
    package.__path__ = list(spec.submodule_search_locations)
    standing_in = {_PACKAGE: package}
    if _IMAGES[0] not in sys.modules:
        standing_in |= {x: ModuleType(x) for x in _IMAGES}
        standing_in[_IMAGES[-1]].FrozenBatchNorm2d = nn.BatchNorm2d  # type: ignore[attr-defined]
    sys.modules.update(standing_in)
    try:
        return importlib.import_module(f"{_PACKAGE}.{name}")
    finally:
        for module in [x for x in sys.modules if x in standing_in or x.startswith(f"{_PACKAGE}.")]:
            del sys.modules[module]
