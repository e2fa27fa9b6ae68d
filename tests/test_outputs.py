"""What outputs make from masks."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from PIL import Image, ImageDraw, ImageFont
from pycocotools import mask as coco_mask

from model import label_image, resize_masks
from model.preprocess import bits_and_labels, packed, split_bits_and_labels
from model.streams import Handed
from resurgsam2_cli.files.rle import compressed, run_lengths
from resurgsam2_cli.outputs.base import Clip, FrameResult, ObjectResult, PackedMasks, boxes_of, region_of
from resurgsam2_cli.outputs.legend import DEMO_NOTE, fitted, layout, state_words, usual_size
from resurgsam2_cli.outputs.overlay import Style, _eroded, draw_overlay
from resurgsam2_cli.prompts.prompt import Prompt
from resurgsam2_cli.segmenting.rendering import Prediction, rendering
from resurgsam2_cli.video.frames import Frame

pictures = array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=9)


def frame(masks: np.ndarray) -> FrameResult:
    blank = np.zeros((*masks.shape[1:], 3), np.uint8)
    return FrameResult(0, "00000", 0, blank, masks, blank[..., 0], [])  # type: ignore[arg-type]


@given(pictures.flatmap(lambda shape: arrays(bool, (2, *shape))))
def test_rle_is_that_of_pycocotools(masks: np.ndarray) -> None:
    result = frame(masks)
    for mask, rle, area, box in zip(masks, result.rle, result.areas, result.boxes, strict=True):
        expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
        assert rle == {"size": list(mask.shape), "counts": expected["counts"].decode("ascii")}
        assert area == coco_mask.area(expected)
        assert (box or [0, 0, 0, 0]) == coco_mask.toBbox(expected).tolist()


def test_rle_of_a_large_picture() -> None:
    """Some runs take more than a few characters of the code, and some continue in the next column."""
    mask = np.zeros((1, 1080, 1920), bool)
    mask[0, :, 700:900] = True
    mask[0, 500:, 1000:1001] = True
    (rle,) = frame(mask).rle
    assert np.array_equal(coco_mask.decode(rle), mask[0])
    assert rle["counts"] == coco_mask.encode(np.asfortranarray(mask[0].view(np.uint8)))["counts"].decode("ascii")


@given(pictures.flatmap(lambda shape: arrays(np.int8, (3, *shape), elements=st.integers(-2, 2))))
def test_labels_are_of_the_highest_logit(logits: np.ndarray) -> None:
    for count in (1, 3):
        some = logits[:count]
        expected = np.where(some.max(0) > 0, some.argmax(0) + 1, 0)
        regions = [region_of(box) for box in frame(some > 0).boxes]
        tensor = torch.from_numpy(some.astype(np.float32))
        assert np.array_equal(label_image(tensor).numpy(), expected)
        assert np.array_equal(label_image(tensor, 0.0, regions).numpy(), expected)


@pytest.mark.parametrize("objects", [1, 3, 16, 17, 40])
@pytest.mark.parametrize(("height", "width"), [(30, 44), (17, 33)])
def test_masks_rendered_a_few_at_a_time(objects: int, height: int, width: int) -> None:
    """As a GPU renders them: the same bits and labels as of all at once."""
    logits = torch.randn(objects, 16, 16, generator=torch.Generator().manual_seed(objects)).round(decimals=1)
    full = resize_masks(logits, height, width)
    for threshold in (0.0, 0.5, -1.0):
        row = bits_and_labels(logits, height, width, threshold).numpy()
        bits, labels = split_bits_and_labels(row, height, width)
        assert np.array_equal(bits, np.packbits((full > threshold).numpy(), axis=-1))
        assert np.array_equal(labels, label_image(full, threshold).numpy())
        shown = Frame(0, "0", Fraction(0), np.zeros((height, width, 3), np.uint8))
        result = rendering(Prediction(shown, Handed(logits), []), threshold)()  # as a CPU renders them
        assert np.array_equal(result.masks, (full > threshold).numpy())
        assert np.array_equal(result.labels, label_image(full, threshold).numpy())
        assert result.known_boxes == boxes_of(*(np.logical_or.reduce(result.masks, axis=i) for i in (2, 1)))


def shape(kind: str, height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """A mask: empty, full, noise, a region with a border of the picture, many components, or an ellipse."""
    y, x = np.mgrid[:height, :width]
    if kind == "ellipse":
        return ((x / width - random.random()) / 0.2) ** 2 + ((y / height - random.random()) / 0.3) ** 2 < 1
    if kind == "side":
        return (x if random.random() < 0.5 else y) > random.random() * max(height, width)
    if kind == "components":
        return (x // 9 + y // 11) % 4 == 0
    return random.random((height, width)) < {"empty": 0, "full": 1, "noise": 0.5}[kind]


KINDS = ("empty", "full", "noise", "side", "components", "ellipse")
SIZES = ((1, 1), (2, 3), (17, 33), (120, 161), (241, 320), (300, 40), (480, 854))


def shapes(height: int, width: int, random: np.random.Generator) -> np.ndarray:
    """One mask of each kind, in any order; they overlap."""
    return np.stack([shape(kind, height, width, random) for kind in random.permutation(KINDS)])


@pytest.mark.parametrize("size", SIZES)
def test_codes_of_shapes(size: tuple[int, int]) -> None:
    for seed in range(4):
        masks = shapes(*size, np.random.default_rng(seed))
        result = frame(masks)
        for mask, rle, area, box in zip(masks, result.rle, result.areas, result.boxes, strict=True):
            expected = coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert rle == {"size": [*size], "counts": expected["counts"].decode("ascii")}
            assert (area, box or [0, 0, 0, 0]) == (mask.sum(), coco_mask.toBbox(expected).tolist())


@given(st.lists(st.lists(st.integers(0, 2**25), min_size=1, max_size=9), max_size=4))
def test_compressed_counts_are_read_back(masks: list[list[int]]) -> None:
    texts = compressed([np.array(x) for x in masks])
    assert [run_lengths(x).tolist() for x in texts] == masks
    for mask, text in zip(masks, texts, strict=True):
        plain = {"size": [1, sum(mask)], "counts": mask}
        assert coco_mask.frPyObjects(plain, 1, sum(mask))["counts"].decode("ascii") == text


@pytest.mark.parametrize("size", SIZES)
def test_only_boxes_are_unpacked(size: tuple[int, int]) -> None:
    """The masks that come from a GPU as bits, with their boxes."""
    for seed in range(4):
        masks = shapes(*size, np.random.default_rng(seed))
        found = PackedMasks(packed(torch.from_numpy(masks)).numpy(), size[1])
        assert found.unpacked().dtype == bool
        assert np.array_equal(found.unpacked(), masks)
        assert found.boxes == frame(masks).boxes
        for i, box in enumerate(found.boxes):
            for margin in (0, 1, 20):
                region = region_of(box, margin)
                assert np.array_equal(found.inside(i, region), masks[i][region])
    assert PackedMasks(np.zeros((0, 5, 1), np.uint8), 7).unpacked().shape == (0, 5, 7)


LABELS = ("left grasper", "gjpqy ÅÇ|_", "a very long name of an instrument that somebody holds", "needle\nholder", "j")


STATES = ("detect", "track", "track", "point", "drawn", "absent")


@pytest.mark.parametrize("size", [*SIZES, (720, 1280)])
@pytest.mark.parametrize("opacity", [0.0, 0.45, 1.0])
def test_the_overlay_is_what_pil_draws(size: tuple[int, int], opacity: float) -> None:
    random = np.random.default_rng(round(10 * opacity))
    for count, says_all in ((0, True), (1, True), (6, True), (6, False)):
        rgb = random.integers(0, 256, (*size, 3), dtype=np.uint8)
        prompts = tuple(Prompt(x, str(random.choice(LABELS))) for x in random.permutation([*LABELS, "x"])[:count])
        clip = Clip(
            "clip",
            *size,
            Fraction(25),
            Fraction(0),
            None,
            None,
            prompts,
            legend=says_all,
            demo_weights=random.random() > 0.5,
        )
        objects = [
            ObjectResult(i, str(random.choice(STATES)), random.random() > 0.3, 1.0, random.random(), 0.9, (), ())
            for i in range(1, count + 1)
        ]
        result = FrameResult(0, "00000", Fraction(0), rgb, shapes(*size, random)[:count], rgb[..., 0], objects)
        before, style = rgb.copy(), Style(clip.colors, opacity)
        assert np.array_equal(draw_overlay(result, clip, style), overlay_by_pil(result, clip, style))
        assert np.array_equal(rgb, before)


def eroded(mask: np.ndarray, steps: int) -> np.ndarray:
    for _ in range(steps):
        wide = np.pad(mask, 1, constant_values=True)
        mask = mask & wide[:-2, 1:-1] & wide[2:, 1:-1] & wide[1:-1, :-2] & wide[1:-1, 2:]
    return mask


@given(pictures.flatmap(lambda shape: arrays(bool, shape)), st.integers(1, 6))
def test_contours_of_any_width(mask: np.ndarray, steps: int) -> None:
    assert np.array_equal(_eroded(mask, steps), eroded(mask, steps))


def overlay_by_pil(result: FrameResult, clip: Clip, style: Style) -> np.ndarray:
    """The overlay drawn on whole pictures."""
    picture, opacity = Image.fromarray(result.rgb), round(style.opacity * 255)
    for mask, color in zip(result.masks, style.colors, strict=True):
        inner = eroded(mask, max(1, round(min(clip.height, clip.width) / 360)))
        alpha = np.where(inner, opacity, np.where(mask, 255, 0)).astype(np.uint8)
        picture.paste(color, (0, 0), Image.fromarray(alpha))
    if clip.legend:
        legend_by_pil(picture, result, clip, style)
    size = max(11, round(0.75 * usual_size(clip.height, clip.width)))
    font, gap = ImageFont.load_default(size), max(2, size // 4)
    width, height = math.ceil(font.getlength(DEMO_NOTE)) + 2 * gap, size + 2 * gap
    if clip.demo_weights and width <= clip.width and height <= clip.height // 4:
        note = Image.fromarray(np.asarray(picture)[-height:, :width] >> 2)
        ImageDraw.Draw(note).text((gap, gap + size / 2), DEMO_NOTE, font=font, fill=(255, 255, 255), anchor="lm")
        picture.paste(note, (0, clip.height - height))
    return np.asarray(picture)


def legend_by_pil(picture: Image.Image, result: FrameResult, clip: Clip, style: Style) -> None:
    place = layout(clip.height, clip.width, clip.prompts)
    if not place.room or not clip.prompts:
        return
    size, gap, font = place.size, place.gap, ImageFont.load_default(place.size)
    there = [i for i, x in enumerate(result.objects) if x.present]
    rows = list(range(len(clip.prompts)))
    if len(rows) > place.room:
        rows = [*there, *(i for i in rows if i not in there)][: place.room - 1]
    hidden = len(clip.prompts) - len(rows)
    height = (size + gap) * (len(rows) + (hidden > 0)) + gap
    legend = Image.fromarray(np.asarray(picture)[:height, : place.width] >> 2)
    draw = ImageDraw.Draw(legend)

    def write(x: int, top: int, text: str, grey: bool) -> None:
        draw.text((x, top + size / 2), text, font=font, fill=(170,) * 3 if grey else (255,) * 3, anchor="lm")

    for line, i in enumerate(rows):
        top, x = gap + line * (size + gap), result.objects[i]
        box = (gap, top, gap + size - 1, top + size - 1)
        if x.present:
            draw.rectangle(box, fill=style.colors[i], outline=(255, 255, 255))
        else:
            draw.rectangle(box, outline=style.colors[i], width=max(2, size // 6))
        write(size + 2 * gap, top, place.names[i], not x.present)
        if place.states is not None:
            write(place.states, top, state_words(x), not x.present)
    if hidden:
        words = f"and {hidden} more" if rows else f"{hidden} objects"
        words = fitted(font, words, place.width - size - 3 * gap)
        write(size + 2 * gap, gap + len(rows) * (size + gap), words, True)
    picture.paste(legend, (0, 0))
