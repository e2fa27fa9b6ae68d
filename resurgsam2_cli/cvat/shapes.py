"""Masks as CVAT's shapes, and back.

The points of a rectangle are left, top, right and bottom, those of a polygon x, y, x, y, ...; both are places on the
picture, and 0, 0 is its top left edge. Those of a mask are the lengths of its runs, row by row in its box, background
first, and then the first and last column and row of the box.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from cvat_sdk.masks import decode_mask, encode_mask

from resurgsam2_cli.edits.masks import outline_counts
from resurgsam2_cli.errors import InputError
from resurgsam2_cli.exports.polygons import bordered, outline
from resurgsam2_cli.files.rle import decoded

Kind = Literal["mask", "polygon", "rectangle"]
"""CVAT's name of a type of shapes."""

Box = tuple[float, float, float, float]
"""left, top, right, bottom"""


def mask_points(mask: np.ndarray) -> list[float]:
    """The points of a mask (height, width) bool, which is not empty."""
    points: list[float] = encode_mask(mask)
    return points


def polygon_points(mask: np.ndarray) -> list[list[float]]:
    """The points of a polygon for each part of a mask (height, width) bool, the largest first; holes are filled."""
    rows, columns = (np.flatnonzero(mask.any(axis=x)) for x in (1, 0))
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    corner = columns[0], rows[0]
    return [(bordered(ring) + corner).ravel().tolist() for ring in outline(inside).parts]


def shape_points(kind: Kind, mask: np.ndarray) -> list[float]:
    """The points of one shape for a mask (height, width) bool, which is not empty.

    A polygon has one ring: that of the largest part.
    """
    if kind == "mask":
        return mask_points(mask)
    if kind == "polygon":
        return polygon_points(mask)[0]
    rows, columns = (np.flatnonzero(mask.any(axis=x)) for x in (1, 0))
    return [float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1)]


def shape_mask(kind: Kind, points: Sequence[float], height: int, width: int) -> np.ndarray:
    """The mask (height, width) bool of a mask or a polygon. Raises :class:`InputError` for one that is broken."""
    try:
        if kind == "mask":
            mask: np.ndarray = decode_mask(points, image_width=width, image_height=height)
        else:
            ring = np.array(points, float)
            ring[::2], ring[1::2] = ring[::2].clip(0, width), ring[1::2].clip(0, height)
            mask = decoded(outline_counts([ring.tolist()], (height, width))[0], (height, width))
    except ValueError as error:
        raise InputError(f"a {kind} of CVAT: {error}", "draw it again") from error
    if not mask.any():
        raise InputError(f"a {kind} of CVAT has no pixels", "draw it again")
    return mask


def box_inside(box: Sequence[float], height: int, width: int) -> Box:
    """The part of a box that is in the picture. Raises :class:`InputError` if that has no area."""
    left, right = (min(max(x, 0.0), float(width)) for x in sorted(box[::2]))
    top, bottom = (min(max(y, 0.0), float(height)) for y in sorted(box[1::2]))
    if not (right > left and bottom > top):
        raise InputError("a box of CVAT has no area in the picture", "draw it again")
    return left, top, right, bottom


def box_of(mask: np.ndarray) -> Box:
    """The box around a mask (height, width) bool, which is not empty."""
    left, top, right, bottom = shape_points("rectangle", mask)
    return left, top, right, bottom
