"""Every size of the network and every threshold of the two-stage algorithm, each in one place.

A release is a :class:`NetworkConfig` plus a weight file; the published one is :data:`HIERA_SMALL`. A smaller
model is the same code with another configuration.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

_Config = TypeVar("_Config")

_WIDEST = 2**14
_MOST_LAYERS = 64
_TOKENS = 49408  # of CLIP


@dataclass(frozen=True)
class HieraConfig:
    """The Hiera backbone (Ryali et al. 2023), as SAM 2 uses it."""

    embed_dim: int = 96
    num_heads: int = 1
    stages: tuple[int, ...] = (1, 2, 11, 2)
    """Blocks per stage; width and heads double, and resolution halves, at each stage after the first."""
    windows: tuple[int, ...] = (8, 4, 14, 7)
    """Attention window of each stage, in tokens."""
    global_blocks: tuple[int, ...] = (7, 10, 13)
    """Blocks that attend to the whole map instead of windows."""
    position_grid: tuple[int, int] = (7, 7)
    """The learned background position grid (rows, columns), resized to the token map."""


@dataclass(frozen=True)
class TextConfig:
    """The CLIP text tower. The defaults are those of ViT-B/32 with QuickGELU."""

    width: int = 512
    layers: int = 12
    heads: int = 8
    vocabulary: int = 49408
    context_length: int = 77
    projection_hidden: int = 2048
    """Hidden width of ``token_projection``, the MLP from the tower's width to the model's."""


@dataclass(frozen=True)
class FusionConfig:
    """The cross-modal spatial-temporal Mamba (CSTMamba)."""

    frames: int = 3
    """Length of the image sequence in frames: the current one and those before it, padded to this number."""
    blocks: int = 2
    mamba_layers: int = 2
    """Mamba layers per block."""
    heads: int = 8
    mlp_hidden: int = 2048
    mamba_mlp_hidden: int = 1024
    state: int = 16
    conv: int = 4
    expand: int = 2
    dt_rank: int = 16


@dataclass(frozen=True)
class MemoryConfig:
    """Memory encoder and memory attention."""

    dim: int = 64
    layers: int = 4
    mlp_hidden: int = 2048
    fuser_layers: int = 2
    fuser_hidden: int = 1024
    slots: int = 7
    """Temporal slots: one for each recent frame, the last one shared by conditioning and long-term frames."""


@dataclass(frozen=True)
class DecoderConfig:
    """SAM 2's mask decoder."""

    depth: int = 2
    heads: int = 8
    mlp_hidden: int = 2048
    prompt_hidden: int = 1024
    """Hidden width of the MLP that makes the prompt token from the text summary."""


@dataclass(frozen=True)
class NetworkConfig:
    """All sizes of one network. The main map has stride 16: ``image_size // 16`` tokens on a side."""

    image_size: int = 512
    dim: int = 256
    image_mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    image_std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    hiera: HieraConfig = field(default_factory=HieraConfig)
    text: TextConfig = field(default_factory=TextConfig)
    fusion: FusionConfig = field(default_factory=FusionConfig)
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    decoder: DecoderConfig = field(default_factory=DecoderConfig)
    words: bool = True
    """Whether there is a text tower and CSTMamba. SAM 2.1's own networks have neither."""
    pointing: bool = False
    """Whether there are weights for clicks, boxes and given masks."""

    def check(self) -> None:
        """Raise ``ValueError`` for sizes that do not go together, or that nobody could want.

        What passes, from a file of anybody, is a network that runs, and is built in little time.
        """
        hiera, text, fusion, memory, decoder = self.hiera, self.text, self.fusion, self.memory, self.decoder
        heads = 2 * math.lcm(fusion.heads, decoder.heads)  # attention to the image is half as wide
        for holds, what in (
            (len(hiera.stages) == len(hiera.windows) == 4, "the backbone has four stages, each with a window"),
            (len(hiera.position_grid) == 2, "the position grid has rows and columns"),
            (len(self.image_mean) == len(self.image_std) == 3, "a picture has three channels"),
            (min(self.image_std) > 0, "the deviation of a picture is not 0"),
            (self.image_size <= 2048, "a picture has at most 2048 pixels on a side"),
            (max(hiera.stages) <= _MOST_LAYERS, f"a stage has at most {_MOST_LAYERS} blocks"),
            (max(text.layers, memory.layers, decoder.depth) <= _MOST_LAYERS, f"at most {_MOST_LAYERS} layers"),
            (max(fusion.blocks, fusion.mamba_layers, memory.fuser_layers) <= 16, "at most 16 blocks"),
            (max(fusion.frames, fusion.expand) <= 16, "detection sees at most 16 frames"),
            (max(fusion.conv, fusion.state) <= 256, "a scan has at most 256 taps and states"),
            (all(x <= min(32, self.image_size // 2 ** (i + 1)) for i, x in enumerate(hiera.windows)), "small windows"),
            (min(hiera.global_blocks) > sum(hiera.stages[:2]), "no attention to all of a fine map"),
            (self.image_size % math.lcm(32, 4 * hiera.windows[0]) == 0, "whole windows on the finest map"),
            (all(x % 2 == 0 for x in hiera.windows[:3]), "windows that are pooled have an even size"),
            (hiera.embed_dim % hiera.num_heads == 0, "the backbone's width is divided by its heads"),
            (self.dim % math.lcm(8, heads) == 0, "the width is divided by 8, and by twice the heads"),
            (memory.dim % 4 == 0 and self.dim % memory.dim == 0, "the width is divided by that of the memory"),
            (text.width % text.heads == 0, "the text tower's width is divided by its heads"),
            (text.vocabulary >= _TOKENS, f"the text tower has at least {_TOKENS} tokens"),
            (text.context_length >= 3, "a text has two marks and a word"),
            (fusion.frames >= 3, "detection sees as many frames as the rules give it"),
            (memory.slots >= 7, "the memory has as many slots as the rules fill"),
        ):
            if not holds:
                raise ValueError(f"this does not hold: {what}")

    @property
    def map_size(self) -> int:
        """Tokens on a side of the main (stride 16) map."""
        return self.image_size // 16

    @property
    def mask_size(self) -> int:
        """Pixels on a side of the mask logits (stride 4)."""
        return self.image_size // 4


HIERA_SMALL = NetworkConfig(pointing=True)
"""``sam2.1_hiera_s``, the configuration of both published checkpoints (Ref-EndoVis17 and Ref-EndoVis18)."""

SAM21_SMALL = replace(HIERA_SMALL, image_size=1024, words=False)
SAM21_TINY = replace(SAM21_SMALL, hiera=HieraConfig(stages=(1, 2, 7, 2), global_blocks=(5, 7, 9)))
SAM21_BASE_PLUS = replace(
    SAM21_SMALL,
    hiera=HieraConfig(112, 2, stages=(2, 3, 16, 3), global_blocks=(12, 16, 20), position_grid=(14, 14)),
)
SAM21_LARGE = replace(
    SAM21_SMALL,
    hiera=HieraConfig(144, 2, stages=(2, 6, 36, 4), windows=(8, 4, 16, 8), global_blocks=(23, 33, 43)),
)

DEMO = NetworkConfig(
    image_size=256,
    dim=96,
    hiera=HieraConfig(embed_dim=24, stages=(1, 2, 5, 1), windows=(8, 4, 8, 8), global_blocks=(5, 7)),
    text=TextConfig(width=64, layers=2, heads=4, projection_hidden=256),
    fusion=FusionConfig(mamba_layers=1, heads=4, mlp_hidden=256, mamba_mlp_hidden=192, state=8, dt_rank=8),
    memory=MemoryConfig(dim=24, layers=2, mlp_hidden=256, fuser_hidden=256),
    decoder=DecoderConfig(heads=4, mlp_hidden=256, prompt_hidden=256),
    pointing=True,
)
"""A network of about a fiftieth of the work, trained on rendered scenes: it runs in real time without a GPU."""

CONFIGURATIONS = {
    "hiera-small": HIERA_SMALL,
    "demo": DEMO,
    "sam2.1-hiera-tiny": SAM21_TINY,
    "sam2.1-hiera-small": SAM21_SMALL,
    "sam2.1-hiera-base-plus": SAM21_BASE_PLUS,
    "sam2.1-hiera-large": SAM21_LARGE,
}
"""Named configurations, for ``releases.toml``."""


@dataclass(frozen=True)
class Rules:
    """The decisions of the two-stage algorithm: CIFS, then DLM. The defaults are the published values."""

    min_presence: float = 0.9
    """CIFS: the presence (sigmoid of the object score) of a credible frame is above this."""
    min_iou: float = 0.7
    """CIFS: the predicted IoU of a credible frame is above this."""
    window: int = 5
    """CIFS: this many credible frames in a row are needed; the best of them becomes the conditioning frame."""
    long_term: int = 3
    """DLM: at most this many long-term frames (0 switches long-term memory off)."""
    long_term_min_iou: float = 0.95
    """DLM: a frame with a predicted IoU above this joins the pool of candidates."""
    pool: int = 5
    """DLM: when the pool has this many frames, the most diverse one is promoted and the pool emptied."""
    recent: int = 6
    """Tracked frames before the current one whose memory is attended to."""
    pointers: int = 16
    """Object pointers attended to, the conditioning frame's among them."""
    context: int = 2
    """Detection: earlier frames that CSTMamba sees beside the current one."""

    def __post_init__(self) -> None:
        for name in ("min_presence", "min_iou", "long_term_min_iou"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie between 0 and 1, not {getattr(self, name)}")
        for name, least in (
            ("window", 1),
            ("long_term", 0),
            ("pool", 1),
            ("recent", 1),
            ("pointers", 1),
            ("context", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, not {getattr(self, name)}")


def to_dict(config: Any) -> dict[str, Any]:
    """A configuration as plain JSON types."""
    return dataclasses.asdict(config)


def from_dict(cls: type[_Config], values: Any) -> _Config:
    """The configuration that :func:`to_dict` wrote.

    A field that is left out keeps its default. Raises ``ValueError`` for a field that ``cls`` does not have, and for a
    value that is not of its kind. Whether the values go together is told by :meth:`NetworkConfig.check`.
    """
    if not isinstance(values, dict):
        raise ValueError(f"{cls.__name__} is not an object")
    defaults = {f.name: getattr(cls(), f.name) for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = sorted(set(values) - set(defaults))
    if unknown:
        raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}")
    return cls(**{name: _value(name, defaults[name], value) for name, value in values.items()})


def _value(name: str, default: Any, value: Any) -> Any:
    if dataclasses.is_dataclass(default):
        return from_dict(type(default), value)
    if isinstance(default, tuple):
        if not isinstance(value, (list, tuple)) or not 0 < len(value) <= _MOST_LAYERS:
            raise ValueError(f"{name} is not a list of numbers")
        return tuple(_value(name, default[0], x) for x in value)
    if isinstance(default, bool) != isinstance(value, bool):
        raise ValueError(f"{name} is not {'true or false' if isinstance(default, bool) else 'a number'}")
    if isinstance(default, bool):
        return value
    if not isinstance(value, (int, float) if isinstance(default, float) else int):
        raise ValueError(f"{name} is not a number")
    if not (abs(value) < _WIDEST if isinstance(default, float) else 1 <= value <= max(_WIDEST, default)):
        raise ValueError(f"{name} is beyond all reason")
    return value
