"""Turns files into networks, strictly, and without ever running code from a file."""

from __future__ import annotations

import json
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.overrides import TorchFunctionMode

from model.config import CONFIGURATIONS, HIERA_SMALL, SAM21_SMALL, NetworkConfig, from_dict, to_dict
from model.network import ReSurgSAM2
from weights.errors import WeightsError
from weights.key_map import TOWER, UnknownKeys, clip_tower, published_network
from weights.pickles import check_pickles, is_zip
from weights.store import sha256, stated_rules

FORMAT = "resurgsam2/1"
"""Marks a single-file release in the metadata of its safetensors header."""

_SHOWN = 10  # names in an error

_ONLY_WITH_WORDS = ("fusion.", "text_encoder.", "prompt_tokens.text_mlp.")

_ONLY_FOR_POINTING = (
    "mask_downsample.",
    "mask_decoder.first_mask_mlp.",
    "prompt_tokens.point_embeddings.",
    "prompt_tokens.mask_encoder.",
)

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)


class _NoValues(TorchFunctionMode):
    """Leaves out what fills new weights: for the meta device, PyTorch would load its compiler first, for nothing."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if getattr(function, "__module__", "") == "torch.nn.init" or name in ("normal_", "uniform_"):
            return args[0] if args else kwargs["tensor"]
        if function is torch.randn:
            function = torch.empty
        return function(*args, **kwargs)


@contextmanager
def without_values() -> Iterator[None]:
    """Build modules whose weights have shapes and nothing else."""
    with torch.device("meta"), _NoValues():
        yield


@dataclass(frozen=True)
class WeightsInfo:
    """What was loaded, for the record of a run."""

    name: str
    path: Path
    sha256: str
    clip_path: Path | None = None
    clip_sha256: str | None = None
    rules: dict[str, Any] = field(default_factory=dict)
    """The values of CIFS and DLM that the release states for itself."""


@dataclass(frozen=True)
class _File:
    tensors: dict[str, Tensor]
    metadata: dict[str, str]


def read_tensors(path: Path) -> _File:
    """The tensors of a .safetensors, .pt, .pth or .bin file. Raises :class:`WeightsError`."""
    if not os.path.isfile(path):
        raise WeightsError(
            f"{path}: no such weight file", "check the path; known names are in: resurgsam2 weights list"
        )
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="pt") as file:
                return _File({key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise _damaged(path, error) from error
    try:
        check_pickles(path)
        with warnings.catch_warnings(action="ignore"):
            # Without mmap, torch would read past the end of a storage that is shorter than it says.
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip(path))
    except pickle.UnpicklingError as error:
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise WeightsError(
                f"{path}: holds {code[1]} beside tensors, and loading that could run code, so it is refused",
                "get the checkpoint from its authors, or save its state dict alone",
            ) from error
        raise _damaged(path, error) from error
    except Exception as error:  # torch's unpickler may raise anything on bytes that are not a checkpoint
        raise _damaged(path, error) from error
    tensors = loaded.get("model", loaded) if isinstance(loaded, dict) else None
    if not isinstance(tensors, dict) or not tensors or not all(_is_plain(*x) for x in tensors.items()):
        raise WeightsError(
            f"{path}: is not a checkpoint: expected tensors by name, or those under 'model'",
            "see: resurgsam2 weights list",
        )
    return _File(tensors, {})


def _is_plain(key: Any, x: Any) -> bool:
    """Whether this is a name with a tensor whose numbers are all in the file: a sparse or an expanded one is larger."""
    return (
        isinstance(key, str)
        and isinstance(x, Tensor)
        and x.layout == torch.strided
        and x.device.type == "cpu"
        and not x.is_quantized
        and min((*x.shape, *x.stride()), default=0) >= 0  # torch's unpickler takes a size of -1 beside one of 0
        and x.numel() * x.element_size() <= x.untyped_storage().nbytes()
    )


def _damaged(path: Path, error: Exception) -> WeightsError:
    known = isinstance(error, SafetensorError | RuntimeError | OSError | zipfile.BadZipFile)
    cause = str(error).split("\n")[0][:120] if known else "cannot be unpickled"
    return WeightsError(f"{path}: is damaged or not a weight file ({cause})", "get the file again and compare its size")


@dataclass(frozen=True)
class Checkpoint:
    """Tensors under our names, and the configuration they are for."""

    config: NetworkConfig
    tensors: dict[str, Tensor]

    @property
    def has_text_tower(self) -> bool:
        """Whether CLIP's text tower is included; published checkpoints often come without it."""
        return any(key.startswith(TOWER) for key in self.tensors)


def read_checkpoint(path: Path) -> Checkpoint:
    """A published checkpoint, of ReSurgSAM2 or SAM 2.1, or a release of ours, which holds its configuration.

    Raises :class:`WeightsError` for a file that is neither, naming the first ten tensors that no rule knows.
    """
    file = read_tensors(path)
    if file.metadata.get("format") == FORMAT:
        try:
            config = from_dict(NetworkConfig, json.loads(file.metadata["config"]))
            config.check()
        except (KeyError, ValueError, RecursionError) as error:
            raise WeightsError(f"{path}: its configuration cannot be read ({error})", "get the file again") from error
        return Checkpoint(config, file.tensors)
    if not any(key.startswith("image_encoder.") for key in file.tensors):
        raise WeightsError(
            f"{path}: is not a ReSurgSAM2 checkpoint (it begins with {next(iter(file.tensors))!r})",
            "CLIP weights go to --clip-weights",
        )
    try:
        tensors = published_network(file.tensors)
        return Checkpoint(_published_configuration(tensors), tensors)
    except UnknownKeys as error:
        raise WeightsError(
            f"{path}: {len(error.keys)} unknown tensors: {_names(error.keys)}",
            "it is not a published ReSurgSAM2 checkpoint; was it saved by another version of the code?",
        ) from error


def _published_configuration(tensors: dict[str, Tensor]) -> NetworkConfig:
    """That of a published checkpoint, told by what only its kind has."""
    if any(key.startswith(_ONLY_WITH_WORDS) for key in tensors):
        return HIERA_SMALL
    width = len(tensors.get("image_encoder.trunk.patch_embed.bias", ()))
    blocks = {key.split(".")[3] for key in tensors if key.startswith("image_encoder.trunk.blocks.")}
    for config in CONFIGURATIONS.values():
        if not config.words and (config.hiera.embed_dim, sum(config.hiera.stages)) == (width, len(blocks)):
            return config
    return SAM21_SMALL  # whose tensors the error will name


def read_clip(path: Path) -> dict[str, Tensor]:
    """CLIP's text tower, under our names, from any of three layouts. Raises :class:`WeightsError`."""
    try:
        return clip_tower(read_tensors(path).tensors)
    except UnknownKeys as error:
        raise WeightsError(
            f"{path}: is not a CLIP text tower: unknown tensors: {_names(error.keys)}",
            "fetch it with: resurgsam2 weights fetch clip-vit-b-32",
        ) from error


def _names(keys: list[str]) -> str:
    more = f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else ""
    return ", ".join(keys[:_SHOWN]) + more


def _source(keys: list[str], path: Path, clip_path: Path | None) -> Path:
    """The file whose fault it is that something is wrong with some tensors."""
    return path if clip_path is None or not all(key.startswith(TOWER) for key in keys) else clip_path


def check_fit(
    path: Path, config: NetworkConfig, tensors: dict[str, Tensor], clip_path: Path | None = None
) -> ReSurgSAM2:
    """An empty network (on the meta device) that ``tensors`` fit exactly. Raises :class:`WeightsError`.

    ``clip_path`` is the file that the text tower is from, if that is another one.
    """
    with without_values():
        network = ReSurgSAM2(config)
    expected = network.state_dict()
    shape = {
        key: f"{key} is {tuple(tensors[key].shape)}, not {tuple(expected[key].shape)}"
        for key in expected.keys() & tensors.keys()
        if tensors[key].shape != expected[key].shape
    }
    hint = "it does not fit this program's network; see: resurgsam2 weights list"
    for what, keys in (
        ("missing", sorted(expected.keys() - tensors.keys())),
        ("unknown", sorted(tensors.keys() - expected.keys())),
        ("wrongly shaped", [shape[key] for key in sorted(shape)]),
        ("wrongly typed", [f"{key} is {x.dtype}" for key, x in tensors.items() if x.dtype not in _FLOATS]),
    ):
        if keys:
            raise WeightsError(f"{_source(keys, path, clip_path)}: {len(keys)} {what} tensors: {_names(keys)}", hint)
    return network


def _clip_used(checkpoint: Checkpoint, clip_path: Path | None) -> Path | None:
    """The file that :func:`complete` takes the text tower from; None if that is not asked for, or in the checkpoint."""
    return None if checkpoint.has_text_tower or not checkpoint.config.words else clip_path


def complete(checkpoint: Checkpoint, path: Path, clip_path: Path | None) -> dict[str, Tensor]:
    """The tensors of ``checkpoint`` with a text tower: its own, else that of ``clip_path``.

    Raises :class:`WeightsError` if there is none.
    """
    if checkpoint.has_text_tower or not checkpoint.config.words:
        return checkpoint.tensors
    if clip_path is None:
        raise WeightsError(
            f"{path}: has no text tower, and no CLIP weights were found",
            "get them with: resurgsam2 weights fetch clip-vit-b-32   (or pass --clip-weights PATH)",
        )
    return checkpoint.tensors | read_clip(clip_path)


def load_network(
    path: Path, clip_path: Path | None = None, *, name: str | None = None, words: bool = True
) -> tuple[ReSurgSAM2, WeightsInfo]:
    """A network in float32 on the CPU, ready for inference, and the record of what it was loaded from.

    ``clip_path`` is used if the checkpoint has no text tower. Without ``words``, nothing is loaded that only they need.
    Raises :class:`WeightsError`.
    """
    checkpoint = read_checkpoint(path)
    if not words:
        checkpoint = Checkpoint(
            replace(checkpoint.config, words=False),
            {key: x for key, x in checkpoint.tensors.items() if not key.startswith(_ONLY_WITH_WORDS)},
        )
    tensors = complete(checkpoint, path, clip_path)
    used_clip = _clip_used(checkpoint, clip_path)
    network = check_fit(path, checkpoint.config, tensors, used_clip)
    tensors = {key: x.float() for key, x in tensors.items()}
    check_finite(path, tensors, clip_path=used_clip)
    network.load_state_dict(tensors, assign=True)
    info = WeightsInfo(
        name or path.stem,
        path,
        sha256(path),
        used_clip,
        sha256(used_clip) if used_clip is not None else None,
        stated_rules(path),
    )
    return network.eval().requires_grad_(False), info


def load_into(network: ReSurgSAM2, path: Path, clip_path: Path | None) -> None:
    """Give ``network`` the weights that its training starts from.

    ``path`` is a release, a published checkpoint, or one of SAM 2.1. What the network has and they have not, text
    or pointing, keeps the weights that it has. Raises :class:`WeightsError`, also if its configuration is not the
    network's.
    """
    checkpoint = read_checkpoint(path)
    own = network.config
    begun = replace(checkpoint.config, image_size=own.image_size, words=own.words, pointing=own.pointing)
    if begun != own or checkpoint.config.words > own.words or checkpoint.config.pointing > own.pointing:
        raise WeightsError(
            f"{path}: is of another configuration than the one to be trained", "leave --configuration out"
        )
    wanted = replace(checkpoint, config=own)
    tensors, used_clip = complete(wanted, path, clip_path), _clip_used(wanted, clip_path)
    lacking = (() if checkpoint.config.words else _ONLY_WITH_WORDS) + (
        () if checkpoint.config.pointing else _ONLY_FOR_POINTING
    )
    tensors = {key: x for key, x in network.state_dict().items() if key.startswith(lacking)} | tensors
    check_fit(path, network.config, tensors, used_clip)
    check_finite(path, tensors, clip_path=used_clip)
    network.load_state_dict({key: x.float() for key, x in tensors.items()})


def check_network(path: Path) -> None:
    """Check that a checkpoint loads, apart from a text tower that it may lack. Raises :class:`WeightsError`."""
    checkpoint = read_checkpoint(path)
    tensors = checkpoint.tensors
    if checkpoint.config.words and not checkpoint.has_text_tower:
        with without_values():
            whole = ReSurgSAM2(checkpoint.config).state_dict()
        tensors = tensors | {key: x for key, x in whole.items() if key.startswith(TOWER)}
    check_fit(path, checkpoint.config, tensors)
    check_finite(path, checkpoint.tensors)


def check_clip(path: Path) -> None:
    """Check that a file holds CLIP's text tower, whole and in the published size. Raises :class:`WeightsError`."""
    tower = read_clip(path)
    with without_values():
        whole = ReSurgSAM2(HIERA_SMALL).state_dict()
    rest = {key: x for key, x in whole.items() if not key.startswith(TOWER)}
    check_fit(path, HIERA_SMALL, rest | tower)
    check_finite(path, tower)


def check_finite(
    path: Path, tensors: dict[str, Tensor], hint: str = "get the file again", clip_path: Path | None = None
) -> None:
    """Raise :class:`WeightsError` for numbers that are not finite; ``clip_path`` is as in :func:`check_fit`."""
    # A sum takes a tenth of the time, and is not finite if a number is not; it may also overflow by itself.
    suspects = {key: x for key, x in tensors.items() if not x.sum(dtype=torch.float32).isfinite()}
    broken = [key for key, x in suspects.items() if not x.float().isfinite().all()]  # as the network has them
    if broken:
        where = _source(broken, path, clip_path)
        raise WeightsError(f"{where}: {len(broken)} tensors are not finite: {_names(broken)}", hint)


def save_release(path: Path, config: NetworkConfig, tensors: dict[str, Tensor], **notes: Any) -> None:
    """Write a single-file release: all tensors under our names, the configuration in the header."""
    metadata = {
        "format": FORMAT,
        "config": json.dumps(to_dict(config)),
        **{k: json.dumps(v) if isinstance(v, dict) else str(v) for k, v in notes.items()},
    }
    # Not save_file, which makes the file readable by its owner alone.
    content = save({key: x.contiguous() for key, x in tensors.items()}, metadata=metadata)
    # The members of the header come in any order: sorted, the same weights are the same file, with the same sum.
    size = int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8 : 8 + size]), sort_keys=True, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.write(memoryview(content)[8 + size :])
