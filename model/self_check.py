"""Does a device compute what the CPU computes? Each fast way of a GPU is tried on a small input, alone and recorded."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from model.config import HIERA_SMALL, HieraConfig, NetworkConfig, Rules, TextConfig
from model.executor import Executor
from model.fused import KINDS, NEED_TRITON, Kind, triton_missing
from model.network import ReSurgSAM2
from model.room import what_it_says
from model.segmenter import Segmenter
from model.selective_scan import mamba_kernel
from model.text_encoder import Prompts

_SMALL = replace(
    HIERA_SMALL,
    image_size=128,
    hiera=HieraConfig(stages=(1, 1, 2, 1), windows=(8, 4, 4, 4), global_blocks=(3,)),
    text=TextConfig(width=32, layers=1, heads=2, projection_hidden=32),
)
"""The widths of the full-size network, of which kernels are made; few blocks and places."""

_RULES = Rules(min_presence=0, min_iou=0, window=1, long_term_min_iou=0, pool=2)
_FRAMES = 7
_OBJECTS = 2

_TOLERANCE = {"fp32": 1e-3, "fp16": 0.01, "bf16": 0.04}
"""How far a device may be from the CPU's float32: a norm relative to that of the CPU's masks. Rounding alone gives a
quarter of it."""


def self_check(device: torch.device, precision: str, kinds: Sequence[Kind] | None = None) -> dict[Kind, str]:
    """The ways that ``device`` had better not use, with the reason. Raises what the device itself cannot do.

    Raises ``ArithmeticError`` if the device computes something else even in the plain way. ``kinds`` are all that the
    device may have, unless given.
    """
    network = _network(_SMALL)
    exact = _masks(Executor(copy.deepcopy(network), torch.device("cpu"), off=KINDS))
    kinds = ways_of(device) if kinds is None else kinds
    bad: dict[Kind, str] = {}
    # Only where it is wanted: a card on which Triton does harm is not to be touched by it.
    missing = triton_missing(device) if device.type == "cuda" and set(kinds) & set(NEED_TRITON) else ""
    if missing:
        bad = {kind: missing for kind in kinds if kind in NEED_TRITON}
    possible = [kind for kind in kinds if kind not in bad]

    def problem(used: Sequence[Kind]) -> str:
        """What is wrong if these ways are used; empty if nothing is."""
        unused = [x for x in KINDS if x not in used]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", RuntimeWarning)
                masks = _masks(Executor(copy.deepcopy(network), device, precision, off=unused))
        except Exception as error:  # whatever goes wrong in a way of computing, there is the plain one
            if not used:
                raise
            return what_it_says(error)
        off = float((masks - exact).norm() / exact.norm())
        return "" if off < _TOLERANCE[precision] else f"masks are off by {off:.2g}"

    # Usually all is well. Only else each way is tried on its own, our scan also where mamba-ssm goes before it.
    if possible and not problem(possible):
        return bad
    if plain := problem(()):
        raise ArithmeticError(f"{device} computes other masks than the CPU: {plain}")
    for kind in possible:
        if found := problem([kind, "triton layers"] if kind == "attention in parts" else [kind]):
            bad[kind] = found
    return bad


def ways_of(device: torch.device) -> tuple[Kind, ...]:
    """The ways that a device may have."""
    if device.type != "cuda":
        return ()
    return KINDS if mamba_kernel() is not None else KINDS[1:]


def _network(config: NetworkConfig) -> ReSurgSAM2:
    """A network with random weights, always the same, that finds its objects, always by the same of its three masks."""
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # whatever a caller has as the default
        torch.manual_seed(0)
        network = ReSurgSAM2(config).float().eval().requires_grad_(False)
        for x in network.parameters():
            if not x.any():
                x.normal_(std=0.02)
    decoder = network.mask_decoder
    for head, bias in ((decoder.object_score_head, [5.0]), (decoder.iou_head, [0.0, 3.0, 0.0, 0.0])):
        last = head.layers[-1]
        assert isinstance(last, torch.nn.Linear)
        last.bias.copy_(last.bias.new_tensor(bias))
    return network


def _masks(executor: Executor) -> Tensor:
    """Mask logits of all frames: detected first, then tracked, often enough to be recorded."""
    config = executor.config
    numbers = np.random.default_rng(0)
    height, width = config.image_size - 32, config.image_size + 32  # a CUDA device resizes frames itself
    frames = numbers.integers(0, 256, (_FRAMES, height, width, 3), dtype=np.uint8)
    tokens = torch.from_numpy(numbers.standard_normal((_OBJECTS, 5, config.dim), np.float32)).to(executor.device)
    prompts = Prompts(tokens, torch.ones(_OBJECTS, 5, dtype=torch.bool, device=executor.device), tokens[:, -1:])
    with executor.context():
        segmenter = Segmenter(executor, prompts, _RULES)
        return torch.stack([segmenter.step(executor.encode([frame])).mask_logits.float().cpu() for frame in frames])
