"""Several objects in one run give what each gives alone, in bounded state."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, small_state

from model import Prediction, ReSurgSAM2, Rules, Segmenter, Step, preprocess
from model.streams import Arriving
from model.text_encoder import Prompts

FRAMES = 40


@pytest.fixture(scope="module")
def network() -> ReSurgSAM2:
    network = ReSurgSAM2(SMALL)
    network.load_state_dict(small_state(score_bias=4.0))
    return network.eval()


@pytest.fixture(scope="module")
def frames() -> list[np.ndarray]:
    """A wandering bright patch over noise."""
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 120, (96, 128, 3))
    clip = []
    for t in range(FRAMES):
        frame = ground + rng.integers(0, 20, ground.shape)
        frame[20 + t : 50 + t, 2 * t : 2 * t + 30] += 100
        clip.append(frame.clip(0, 255).astype(np.uint8))
    return clip


def run(network: ReSurgSAM2, prompts: Prompts, frames: list[np.ndarray], rules: Rules) -> list[Step]:
    segmenter = Segmenter(network, prompts, rules)
    return [segmenter.step(network.encode_image(preprocess([f], SMALL))) for f in frames]


@torch.inference_mode()
@pytest.mark.parametrize("pool", [1, 3, 5])
def test_a_frame_started_before_the_last_one_is_settled(
    pool: int, network: ReSurgSAM2, frames: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same results; what was said is read before the next frame only if that may change what is recalled."""
    prompts = network.encode_text(["left grasper", "kidney", "thread"])
    rules = Rules(min_presence=0, min_iou=0, window=3, pool=pool, long_term_min_iou=0, recent=2)
    expected = run(network, prompts, frames, rules)
    read = 0

    class Counted(Arriving):
        def wait(self) -> torch.Tensor:
            nonlocal read
            read += 1
            return super().wait()

    monkeypatch.setattr("model.started.Arriving", Counted)
    segmenter = Segmenter(network, prompts, rules)
    found, early, before = [], [], None
    for frame in frames:
        count = read
        started = segmenter.start(network.encode_image(preprocess([frame], SMALL)))
        early.append(read - count)
        if before is not None:
            found.append(before.step())
        before = started
    assert before is not None
    found.append(before.step())
    for a, b in zip(found, expected, strict=True):
        assert a.objects == b.objects
        assert torch.equal(a.mask_logits, b.mask_logits)
    tracked = [x.objects[0].stage == "track" for x in expected]
    first = tracked.index(True)
    assert early[: first + 1] == [0] * (first + 1)
    # After each full pool of tracked frames.
    assert early[first:] == [int(t > 0 and t % pool == 0) for t in range(len(frames) - first)]


def initial_frame(steps: list[Step], k: int) -> int | None:
    found = [s.objects[k].conditioning_frames for s in steps if s.objects[k].conditioning_frames]
    return found[0][0] if found else None


def gaps(values: torch.Tensor) -> list[float]:
    """The middles of the gaps between values, the widest gap first."""
    ordered = values.flatten().sort().values.double()
    widest_first = ordered.diff().argsort(descending=True)
    return ((ordered[1:] + ordered[:-1]) / 2)[widest_first].tolist()


@torch.inference_mode()
def test_objects_do_not_disturb_one_another(network: ReSurgSAM2, frames: list[np.ndarray]) -> None:
    texts = [
        "left grasper",
        "kidney",
        "the right large needle driver near the edge of the liver",
        "suction",
        "thread",
        "ultrasound probe on the left",
    ]
    prompts = network.encode_text(texts)
    never = Rules(min_iou=1.0)
    ious = torch.tensor([[x.predicted_iou for x in s.objects] for s in run(network, prompts, frames, never)])
    # A threshold at which some object is found at once, another later, and a third never: an object is found
    # when the least of five IoUs in a row is above it.
    least = ious.unfold(0, 5, 1).amin(dim=2)  # (runs, objects)
    first, best = least[0], least.amax(dim=0)
    # Thresholds lie in gaps, widest first: no decision hangs on a rounding that differs between batches.
    thresholds = [x for x in gaps(torch.cat((first, best))) if ((first <= x) & (best > x)).any()]
    thresholds = [x for x in thresholds if (best <= x).any() and (first > x).any()]
    assert thresholds, "the made-up weights give no such case"
    middle = ious.flatten().sort().values[ious.numel() // 3 : -ious.numel() // 3]
    rules = Rules(min_presence=0.0, min_iou=thresholds[0], long_term_min_iou=gaps(middle)[0], pool=2)

    together = run(network, prompts, frames, rules)
    starts = [initial_frame(together, k) for k in range(len(texts))]
    assert None in starts
    assert len(set(starts)) >= 3, starts
    for k, text in enumerate(texts):
        alone = run(network, network.encode_text([text]), frames, rules)
        for a, b in zip(alone, together, strict=True):
            assert a.objects[0].stage == b.objects[k].stage
            assert a.objects[0].conditioning_frames == b.objects[k].conditioning_frames
            assert a.objects[0].long_term_frames == b.objects[k].long_term_frames
            assert a.objects[0].long_term_candidates == b.objects[k].long_term_candidates
            scale = a.mask_logits.abs().max()
            assert float((a.mask_logits[0] - b.mask_logits[k]).abs().max() / scale) < 1e-4
    order = [3, 0, 5, 2, 4, 1]
    shuffled = run(network, prompts.select(torch.tensor(order)), frames, rules)
    for a, b in zip(together, shuffled, strict=True):
        assert [a.objects[k].conditioning_frames for k in order] == [x.conditioning_frames for x in b.objects]
        torch.testing.assert_close(a.mask_logits[order], b.mask_logits, atol=1e-3, rtol=1e-4)


@torch.inference_mode()
def test_state_is_bounded(network: ReSurgSAM2, frames: list[np.ndarray]) -> None:
    segmenter = Segmenter(
        network,
        network.encode_text(["left grasper", "kidney"]),
        Rules(min_presence=0, min_iou=0, long_term_min_iou=0, window=3),
    )

    def held() -> int:
        gc.collect()
        storages = {
            x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
            for x in gc.get_objects()
            if type(x) is torch.Tensor
        }
        return sum(storages.values())

    sizes = []
    for t in range(120):
        features = network.encode_image(preprocess([frames[t % FRAMES]], SMALL))
        segmenter.step(features)
        if t in (40, 119):
            sizes.append(held())
    assert sizes[1] <= sizes[0] * 1.02


def test_recent_frames_are_limited_by_the_slots(network: ReSurgSAM2) -> None:
    with pytest.raises(ValueError, match="recent"):
        Segmenter(network, network.encode_text(["kidney"]), Rules(recent=7))


def test_a_text_that_is_too_long(network: ReSurgSAM2) -> None:
    with pytest.raises(ValueError, match="77"):
        network.encode_text(["grasper " * 80])


@torch.inference_mode()
def test_context_can_be_less(network: ReSurgSAM2, frames: list[np.ndarray]) -> None:
    """Without context, a frame is detected as if it were the first."""
    prompts = network.encode_text(["left grasper"])
    steps = run(network, prompts, frames[:3], Rules(context=0, min_iou=1.0))
    for frame, step in zip(frames, steps, strict=False):
        alone = network.detect(network.encode_image(preprocess([frame], SMALL)), [], prompts)
        assert torch.equal(step.mask_logits, alone.mask_logits)
    with pytest.raises(ValueError, match="context must be below 3"):
        Segmenter(network, prompts, Rules(context=3))


def test_kept_positions_follow_the_weights() -> None:
    """The backbone's positions are made once for inference, and anew when the weights have changed."""
    network = ReSurgSAM2(SMALL).eval()
    trunk, side = network.image_encoder.trunk, SMALL.image_size // 4
    with torch.inference_mode():
        first = trunk.positions(side, side)
        assert trunk.positions(side, side) is first
        assert trunk.positions(side, 2 * side).shape[2] == 2 * side
    with torch.no_grad():
        trunk.position_window.add_(1)
        assert torch.allclose(trunk.positions(side, side), first + 1, atol=1e-5)
    trunk.positions(side, side).sum().backward()
    assert trunk.position_grid.grad is not None
    network.load_state_dict({key: torch.zeros_like(x) for key, x in network.state_dict().items()})
    with torch.inference_mode():
        assert not trunk.positions(side, side).any()


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("which", ["object_score", "predicted_iou", "mask_logits"])
@pytest.mark.parametrize("verb", ["detect", "track"])
def test_numbers_that_are_not_finite_decide_nothing(
    verb: str, which: str, number: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No comparison is true of NaN, so that it would be credible."""
    network = ReSurgSAM2(SMALL).eval()
    network.load_state_dict(small_state(score_bias=4.0))
    segmenter = Segmenter(network, network.encode_text(["x"]), Rules(min_presence=0, min_iou=0, window=1))
    features = network.encode_image(torch.zeros(1, 3, SMALL.image_size, SMALL.image_size))
    if verb == "track":
        segmenter.step(features)
    whole = getattr(network, verb)

    def spoiled(*inputs: Any) -> Prediction:
        found: Prediction = whole(*inputs)
        value = getattr(found, which).clone()
        value[(0,) * value.dim()] = number
        return found._replace(**{which: value})

    monkeypatch.setattr(network, verb, spoiled)
    with torch.inference_mode(), pytest.raises(FloatingPointError, match="gives object 1 a score of"):
        segmenter.step(features)
