"""How the network is run: the verbs of :class:`~model.network.ReSurgSAM2` on one device, in one precision.

The executor owns what the network itself knows nothing of: where its weights are and in which precision, how many
objects and frames go through it at once, CUDA graphs, and what happens when memory runs out.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from model.config import NetworkConfig, Rules
from model.fused import Kind, without
from model.image_encoder import ImageFeatures
from model.memory import Buffers, Memory, Recalled, RecallTable
from model.network import Followed, Prediction, ReSurgSAM2
from model.precision import PRECISIONS, exact_products, full_products, half_products, lower_weights
from model.preprocess import RENDERED_TOGETHER, bits_and_labels, normalized, preprocess, resized
from model.prompt_tokens import Clicks
from model.replay import CudaGraphs, Recorder, Recordings, free_cache
from model.room import out_of_memory
from model.selective_scan import backend_for
from model.streams import on, stream_for
from model.text_encoder import Prompts
from model.uploads import Uploads

_FRAMES_TOGETHER = 4
"""Frames that a CUDA device encodes at once: a single one leaves much of a large card idle."""

_MOST_TOGETHER = 16
"""Objects that go through the network at once; more at a time are no faster on any device."""

_ROOM = {"cpu": 2**30, "mps": 2**30, "cuda": 2**33}
"""Bytes that the intermediate results of objects may take; on CUDA, at most half of what is free."""

_MOST_RENDERED = 2**24
"""Pixels of masks whose rendering is recorded: a recording keeps the memory of its intermediate results."""

_TEXTS_TOGETHER = 32

_Together = Literal["objects_together", "frames_together", "texts_together", "rendered_together"]
"""Of what an executor does some at once: fewer if memory runs out."""

_COUNTED: dict[_Together, str] = {
    "objects_together": "objects",
    "frames_together": "frames",
    "texts_together": "texts",
    "rendered_together": "masks to be rendered",
}

T = TypeVar("T")


class Executor:
    """Runs a network that it takes over: its weights are moved to the device and lowered to the precision.

    Has the verbs that a :class:`~model.segmenter.Segmenter` needs; call them, and the segmenter, inside
    :meth:`context`. ``off`` are ways of computing that the device had better not use. ``objects`` and ``recordings``
    are for tests: how many objects go through the network at once, and what makes recordings.
    """

    def __init__(
        self,
        network: ReSurgSAM2,
        device: torch.device,
        precision: str = "fp32",
        *,
        objects: int | None = None,
        recordings: Callable[[], Recordings] | None = None,
        off: Collection[Kind] = (),
    ) -> None:
        self.device, self.precision, self._off = device, precision, frozenset(off)
        lower_weights(network, PRECISIONS[precision], device)
        self._network = network.to(device)
        self.frames_together = _FRAMES_TOGETHER if device.type == "cuda" else 1
        self.objects_together = objects or self._fitting()
        self.texts_together, self.rendered_together = _TEXTS_TOGETHER, RENDERED_TOGETHER
        self._usual: dict[_Together, int] = {x: getattr(self, x) for x in get_args(_Together)}
        # Recordings that are replayed on different streams must not share memory. Each kernel of a tracked frame waits
        # for the one before, and would wait for those that encode later frames, too.
        self._recorders: list[Recorder] = []
        if recordings is not None:
            self._recorders = [Recorder(recordings()) for _ in range(3)]
        elif device.type == "cuda" and "recordings" not in off:
            self._recorders = [Recorder(CudaGraphs(device, urgent=urgent)) for urgent in (True, False, True)]
        self._beside, self._thread = stream_for("beside", device), threading.local()
        self._spare: dict[tuple[int, Rules], Buffers] = {}
        self._uploads = Uploads(device) if device.type == "cuda" else None

    @property
    def shortage(self) -> str:
        """What is done fewer at a time than usual, as memory ran out in this video or before; empty if nothing is."""
        fewer = [
            f"{now} instead of {self._usual[name]} {what} at a time"
            for name, what in _COUNTED.items()
            if (now := getattr(self, name)) < self._usual[name]
        ]
        return f"the memory of the device ran out, now or shortly before: {', '.join(fewer)}" if fewer else ""

    @property
    def config(self) -> NetworkConfig:
        """The sizes of the network."""
        return self._network.config

    @property
    def scan(self) -> str:
        """The backend of its selective scans (:func:`.backend_for`)."""
        with without(self._off):
            return backend_for(self.device)

    @property
    def context_length(self) -> int:
        """Tokens that a text may have."""
        return self._network.text_encoder.context_length

    def begin(self) -> None:
        """Another video, or another piece of work, begins: what was given up for want of memory comes back by and by.

        Whoever had taken that memory may be gone.
        """
        for name, usual in self._usual.items():
            now = getattr(self, name)
            setattr(self, name, max(now, min(2 * now, usual)))
        for recorder in self._recorders:
            recorder.try_again()

    @contextmanager
    def context(self) -> Iterator[None]:
        """Inference without gradients, with exact products, under autocast if the precision asks for it.

        The device is the current one: pinned memory, and whatever does not name a device, belongs to that. What a
        caller has set for new tensors and for products before does not count inside.
        """
        current = torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()
        made = torch.device("cpu") if _default_elsewhere() else nullcontext()
        if self.precision == "fp32":
            products = full_products(self.device.type)
        else:
            products = half_products(self.device.type, PRECISIONS[self.precision])
        with current, made, without(self._off), exact_products(), torch.inference_mode(), products:
            yield

    @contextmanager
    def beside(self) -> Iterator[None]:
        """In a thread that encodes frames ahead: run beside what other threads do; hand results over by ``Handed``."""
        with on(self._beside):
            self._thread.is_beside = self._beside is not None
            try:
                yield
            finally:
                self._thread.is_beside = False

    def encode(self, frames: list[Any]) -> ImageFeatures:
        """Encode RGB frames of one size, arrays or tensors (height, width, 3) uint8; they depend on nothing else.

        Raises ``ValueError`` for anything else.
        """
        kinds = {(tuple(x.shape), str(x.dtype).removeprefix("torch.")) for x in frames}
        if len(kinds) != 1 or any(len(shape) != 3 or shape[2] != 3 or kind != "uint8" for shape, kind in kinds):
            raise ValueError(f"frames must be (height, width, 3) uint8, all of one size, not {sorted(kinds)}")
        parts: list[ImageFeatures] = []
        while (done := sum(len(x.main) for x in parts)) < len(frames):

            def part(at: int = done) -> ImageFeatures:
                return self._encode(frames[at : at + self.frames_together])

            parts.append(self._with_room("frames_together", len(frames) - done, part))
        return parts[0] if len(parts) == 1 else ImageFeatures(*(torch.cat(x) for x in zip(*parts, strict=True)))

    def _encode(self, frames: list[Any]) -> ImageFeatures:
        if self._uploads is None:
            images = preprocess(frames, self.config, self.device)
            return self._call("encode", self._network.encode_image, images)
        images = self._uploads.send(frames)
        return self._call("encode", partial(_encode_pixels, self._network), images)

    def encode_text(self, texts: list[str]) -> Prompts:
        """Encode one text per object. Raises ``ValueError`` for a text longer than the tower reads."""

        def part(first: int, last: int) -> Prompts:
            return self._network.encode_text(texts[first:last])

        parts = self._in_groups(len(texts), part, "texts_together")
        longest = max(x.valid.shape[1] for x in parts)
        padding = [longest - x.valid.shape[1] for x in parts]
        return Prompts(
            torch.cat([F.pad(x.tokens, (0, 0, 0, n)) for x, n in zip(parts, padding, strict=True)]),
            torch.cat([F.pad(x.valid, (0, n)) for x, n in zip(parts, padding, strict=True)]),
            torch.cat([x.summary for x in parts]),
        )

    def detect(self, features: ImageFeatures, earlier: list[Tensor], prompts: Prompts) -> Prediction:
        """As :meth:`.ReSurgSAM2.detect`, without what only training looks at."""
        verb = partial(_detect, self._network)

        def part(first: int, last: int) -> Prediction:
            return self._call("detect", verb, features, earlier, prompts.select(slice(first, last)))

        return _joined(self._in_groups(len(prompts.summary), part))

    def follow(
        self, features: ImageFeatures, buffers: Buffers, table: RecallTable, prompts: Prompts | None
    ) -> Followed:
        """As :meth:`.ReSurgSAM2.follow`."""
        verb, count = partial(_follow, self._network), len(table.numbers)

        def part(first: int, last: int) -> Followed:
            if last - first == count:  # nearly always: each slice would be a call of PyTorch
                return self._call("follow", verb, features, table, prompts, held=(buffers,))
            own = None if prompts is None else prompts.select(slice(first, last))
            return self._call("follow", verb, features, table.part(first, last), own, held=(buffers,))

        parts = self._in_groups(count, part)
        return parts[0] if len(parts) == 1 else Followed(*(torch.cat(x) for x in zip(*parts, strict=True)))

    def point(
        self,
        features: ImageFeatures,
        clicks: Clicks,
        recalled: Recalled | None = None,
        fed_back: Tensor | None = None,
        prompts: Prompts | None = None,
    ) -> Prediction:
        """As :meth:`.ReSurgSAM2.point`. It is rare, and never recorded."""

        def part(first: int, last: int) -> Prediction:
            own = slice(first, last)
            return self._network.point(
                features,
                Clicks(*(x[own] for x in clicks)),
                None if recalled is None else recalled.part(first, last),
                None if fed_back is None else fed_back[own],
                None if prompts is None else prompts.select(own),
            )._replace(decoded=None)

        return _joined(self._in_groups(len(clicks.labels), part))

    def adopt(self, features: ImageFeatures, masks: Tensor, prompts: Prompts | None = None) -> Prediction:
        """As :meth:`.ReSurgSAM2.adopt`. It is rare, and never recorded."""

        def part(first: int, last: int) -> Prediction:
            own = slice(first, last)
            found = self._network.adopt(features, masks[own], None if prompts is None else prompts.select(own))
            return found._replace(decoded=None)

        return _joined(self._in_groups(len(masks), part))

    def memorize(self, main: Tensor, mask_logits: Tensor, object_score: Tensor, *, prompted: bool = False) -> Tensor:
        """As :meth:`.ReSurgSAM2.memorize`. It is rare, and never recorded."""

        def part(first: int, last: int) -> Tensor:
            own = main if len(main) == 1 else main[first:last]
            return self._network.memorize(own, mask_logits[first:last], object_score[first:last], prompted=prompted)

        return torch.cat(self._in_groups(len(mask_logits), part))

    def render(self, mask_logits: Tensor, height: int, width: int, threshold: float) -> Tensor:
        """As :func:`.bits_and_labels`; all calls on one stream, which may be another than that of the verbs."""

        def work() -> Tensor:
            how = (mask_logits, height, width, threshold, self.rendered_together)
            if not self._recorders or len(mask_logits) * height * width > _MOST_RENDERED:
                return bits_and_labels(*how)
            return self._recorders[2].call("render", bits_and_labels, *how)

        return self._with_room("rendered_together", len(mask_logits), work)

    def memory(self, objects: int, rules: Rules) -> Memory:
        """Empty memory for the objects of a video. When it is released, the next video gets the same buffers."""
        key = (objects, rules)
        buffers = self._spare.pop(key, None)
        if buffers is None:
            buffers = self._with_room(
                "objects_together", 1, lambda: Buffers.empty(objects, rules, self.config, self.device)
            )
        else:
            for x in buffers:
                x.zero_()
        memory = Memory(buffers, rules, fixed=bool(self._recorders))
        weakref.finalize(memory, _give_back, weakref.ref(self), key, buffers).atexit = False
        return memory

    def _call(self, name: str, function: Callable[..., T], *moving: Any, held: tuple[Any, ...] = ()) -> T:
        if not self._recorders:
            return function(*moving, *held)
        beside: bool = getattr(self._thread, "is_beside", False)
        return self._recorders[beside].call(name, function, *moving, held=held)

    def _in_groups(
        self, count: int, part: Callable[[int, int], T], together: _Together = "objects_together"
    ) -> list[T]:
        """Call ``part`` with the first object and the end of each group; groups differ by one object at most."""
        done, parts = 0, []
        while done < count:

            def group(first: int = done) -> tuple[int, T]:
                groups = -(-(count - first) // getattr(self, together))
                last = first + -(-(count - first) // groups)
                return last, part(first, last)

            done, found = self._with_room(together, count - done, group)
            parts.append(found)
        return parts

    def _with_room(self, together: _Together, count: int, work: Callable[[], T]) -> T:
        """Do work on as many of ``count`` as go ``together``; if memory runs out, give something up and do it again.

        First the recordings go, and the memory of the last video, then half of what is done together, again and again.
        Raises the error if nothing is left to give up.
        """
        while True:
            try:
                return work()
            except (RuntimeError, MemoryError) as error:
                if not out_of_memory(error):
                    raise
                refused = error.with_traceback(None)  # which holds the intermediate results of the work
            dropped = [bool(self._spare), *(recorder.drop(self._wait) for recorder in self._recorders)]
            self._spare = {}
            if not any(dropped):
                number = min(count, getattr(self, together))
                if number == 1:
                    raise refused
                setattr(self, together, -(-number // 2))
            if self.device.type == "cuda":
                free_cache()

    def _wait(self) -> None:
        """Wait until the device is done: a recording may be running."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _fitting(self) -> int:
        """How many objects go through the network at once."""
        room = _ROOM.get(self.device.type, _ROOM["cpu"])
        if self.device.type == "cuda":
            # What PyTorch keeps of an engine that was there before is taken, as far as the driver knows.
            kept = torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
            room = min(room, (torch.cuda.mem_get_info(self.device)[0] + kept) // 2)
        return max(1, min(_MOST_TOGETHER, room // bytes_per_object(self.config)))


def bytes_per_object(config: NetworkConfig) -> int:
    """About what the intermediate results of one more object take, at the most: those of its scans, in float32."""
    fusion = config.fusion
    return 24 * fusion.frames * config.map_size**2 * fusion.expand * config.dim * 4


def _default_elsewhere() -> bool:
    """Whether this thread makes tensors on another device than the CPU, if none is named."""
    # Such a default is a mode, and hardly ever is there one: the whole question takes thirty times as long.
    return bool(torch._C._len_torch_function_stack()) and torch.get_default_device().type != "cpu"


def _encode_pixels(network: ReSurgSAM2, images: Tensor) -> ImageFeatures:
    """Resize frames (frames, height, width, 3) uint8 on the device, and encode them."""
    size = network.config.image_size
    return network.encode_image(normalized(resized(images, size, size), network.config))


def _detect(network: ReSurgSAM2, features: ImageFeatures, earlier: list[Tensor], prompts: Prompts) -> Prediction:
    return network.detect(features, earlier, prompts)._replace(decoded=None)


def _follow(
    network: ReSurgSAM2, features: ImageFeatures, table: RecallTable, prompts: Prompts | None, buffers: Buffers
) -> Followed:
    return network.follow(features, buffers, table, prompts)


def _joined(parts: list[Prediction]) -> Prediction:
    if len(parts) == 1:
        return parts[0]
    mask_logits, predicted_iou, object_score, pointer = (
        torch.cat(x) for x in zip(*(p[:4] for p in parts), strict=True)
    )
    return Prediction(mask_logits, predicted_iou, object_score, pointer)


def _give_back(executor: weakref.ref[Executor], key: tuple[int, Rules], buffers: Buffers) -> None:
    owner = executor()
    if owner is not None:
        owner._spare = {key: buffers}  # of one kind only: others would take memory for good
