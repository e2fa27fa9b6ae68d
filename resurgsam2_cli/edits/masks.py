"""When an edited mask counts as changed: by any pixel, by what a label image can show, or by more than rounding."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from resurgsam2_cli.exports.polygons import filled
from resurgsam2_cli.files.label_images import Labels
from resurgsam2_cli.files.rle import compressed, decoded, encoded
from resurgsam2_cli.runs.reading import RunFrame
from resurgsam2_cli.runs.record import Run

Mask = NDArray[np.bool_]
"""(height, width)"""

ChangedMasks = dict[int, Mask]
"""The corrected masks of a frame by the ids of their objects."""


class OwnMasks:
    """The run's own masks of a frame, decoded when they are asked for."""

    def __init__(self, run: Run, frame: RunFrame) -> None:
        self.shape = run.height, run.width
        self.ids = [x.id for x in run.objects]
        self._counts = {x.object_id: x.rle["counts"] for x in frame.masks}
        self._decoded: dict[int, Mask] = {}

    def counts(self, object_id: int) -> str | None:
        """The compressed RLE of an object; None if it is absent."""
        return self._counts.get(object_id)

    def mask(self, object_id: int) -> Mask:
        """The mask of an object, empty if it is absent; not to be written to."""
        if object_id not in self._decoded:
            counts = self.counts(object_id)
            self._decoded[object_id] = decoded(counts, self.shape)
        return self._decoded[object_id]

    def changes(self, stated: ChangedMasks) -> ChangedMasks:
        """Those of the stated masks that differ from the run's in any pixel."""
        return {x: mask for x, mask in stated.items() if not np.array_equal(mask, self.mask(x))}


def label_changes(labels: Labels, own: OwnMasks) -> ChangedMasks:
    """The objects whose masks a label image (height, width), with no other values than their ids, contradicts.

    A label image shows one object per pixel, and the run's may overlap. Which of them the run's own label image showed
    followed from logits that were not kept, so any order of them is taken for unedited: a pixel that shows one of the
    objects whose masks it lies in says nothing about the others. Where a pixel shows what it cannot have shown, it is
    a person's: it belongs to the object that it shows, and to no other.

    An object that no pixel shows any more, though some must have shown it, was removed as a whole, also below others.
    """
    masks = {x: own.mask(x) for x in own.ids}
    owners = np.zeros(labels.shape, np.uint8)
    shown = np.zeros(labels.shape, bool)
    """Whether a pixel shows one of the objects whose masks it lies in."""
    for object_id, mask in masks.items():
        owners += mask
        shown |= mask & (labels == object_id)
    stated: ChangedMasks = {}
    for object_id, mask in masks.items():
        seen = labels == object_id
        alone = bool((mask & (owners == 1)).any())
        stated[object_id] = seen if alone and not seen.any() else seen | (mask & shown)
    return own.changes(stated)


def is_rounded(outline: Mask, own: Mask) -> bool:
    """Whether a mask that was filled from polygons may be the own one, or that without its holes.

    Polygons hold masks up to rounding: tools trace the outermost pixels' centres, or their outer edges, and round to
    whole pixels. Each of these moves the border by at most one pixel, so the masks count as the same if each pixel of
    one has a pixel of the other among its neighbours, and likewise for what is outside of them: a thread that was cut
    or a gap that was closed is a change, however thin. One ring of corners holds no hole, so a filled one says nothing.
    """
    if not outline.any() or not own.any():
        return not outline.any() and not own.any()
    if _is_near(outline, own):
        return True
    whole = filled(own)
    return not np.array_equal(whole, own) and _is_near(outline, whole)


def _is_near(one: Mask, other: Mask) -> bool:
    either = one | other
    rows, columns = (np.flatnonzero(either.any(axis=x)) for x in (1, 0))
    region = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    # Around the picture is background, too: a mask may end at its edge in one and a pixel before it in the other.
    a, b = (np.pad(x[region], 1) for x in (one, other))
    return _is_within(a, b) and _is_within(b, a) and _is_within(~a, ~b) and _is_within(~b, ~a)


def _is_within(inner: Mask, outer: Mask) -> bool:
    """Whether each pixel of ``inner`` is in ``outer`` or beside one of its pixels."""
    grown = outer.copy()
    grown[1:] |= outer[:-1]
    grown[:-1] |= outer[1:]
    rows = grown.copy()
    grown[:, 1:] |= rows[:, :-1]
    grown[:, :-1] |= rows[:, 1:]
    return not (inner & ~grown).any()


def outline_counts(rings: Iterable[list[float]], shape: tuple[int, int]) -> tuple[str, str]:
    """The compressed RLE of all that polygons enclose, without and with the pixels that their borders go through.

    Each polygon is x, y, x, y, ... in pixels. They are filled as pycocotools does, which COCO's readers and CVAT use:
    corners are places on the picture, and 0, 0 is its top left edge. That leaves nothing of a thread which was traced
    through the centres of its pixels: then the border is the mask. Raises ``ValueError``.
    """
    height, width = shape
    total, several = 0.0, []
    border = np.zeros(shape, bool)
    for ring in rings:
        if len(ring) < 6 or len(ring) % 2:
            raise ValueError(f"a polygon of {len(ring)} coordinates: it takes three corners or more")
        corners = np.array(ring, float).reshape(-1, 2)
        if not ((corners >= -1) & (corners <= (width + 1, height + 1))).all():  # also refuses what is not finite
            raise ValueError(f"a polygon that leaves the picture, which is {width} x {height} pixels")
        corners = corners.clip(0, (width, height))
        steps = 1 + np.abs(np.roll(corners, -1, axis=0) - corners).max(axis=1).astype(int)
        total += int(steps.sum())
        if total > _LONGEST_OUTLINE:
            raise ValueError("a polygon with a longer outline than any mask has")
        several.append(corners.ravel().tolist())
        _draw(border, corners, steps)
    if not several:
        raise ValueError("no polygon")
    merged = coco_mask.merge(coco_mask.frPyObjects(several, height, width))
    counts, bordered = merged["counts"].decode("ascii"), encoded(border | decoded(merged["counts"], shape))
    return (counts if coco_mask.area(merged) else bordered), bordered


def _draw(picture: Mask, corners: NDArray[np.float64], steps: NDArray[np.intp]) -> None:
    """Set the pixels that a ring goes through, whose corners are (corners, 2) of x and y and stand for centres."""
    along = np.concatenate([np.arange(x) / x for x in steps.tolist()])[:, None]
    begins, ends = (np.repeat(x, steps, axis=0) for x in (corners, np.roll(corners, -1, axis=0)))
    x, y = np.rint(begins + along * (ends - begins)).astype(int).T
    picture[y.clip(0, picture.shape[0] - 1), x.clip(0, picture.shape[1] - 1)] = True


_LONGEST_OUTLINE = 2**21
"""Pixels. To fill a polygon takes a hundred bytes for each."""


def merged_counts(counts: list[str], shape: tuple[int, int]) -> str:
    """The compressed RLE of the union of masks."""
    merged = coco_mask.merge([{"size": list(shape), "counts": x} for x in counts])
    return merged["counts"].decode("ascii")


def counts_of_runs(runs: list[int], shape: tuple[int, int]) -> str:
    """The compressed RLE of a mask, given its run lengths. Raises ``ValueError`` unless they fill it exactly."""
    whole = shape[0] * shape[1]
    if not all(type(x) is int and 0 <= x <= whole for x in runs) or sum(runs) != whole:
        raise ValueError("the counts of a mask do not fill its size")
    return compressed([np.array(runs, np.intp)])[0]
