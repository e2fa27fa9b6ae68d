"""bfloat16 on a CPU: what it may change, and what it may not."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from model import ReSurgSAM2, Segmenter, resize_masks
from model.layers import attend
from model.precision import lower_weights
from model.training.scenes import Scene
from resurgsam2_cli.segmenting.engine import Engine, build_engine
from weights.loader import load_network


@pytest.mark.parametrize(("queries", "keys"), [(50, 40), (50, 1500), (800, 1500)])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("spread", [1.0, 4.0])
def test_attention(queries: int, keys: int, masked: bool, spread: float) -> None:
    """With few keys and many, with and without padding, it is at most some times as far from exact as PyTorch's.

    Errors are norms relative to that of the result. Rounding the scores to eight bits costs more the larger they are.
    """
    torch.manual_seed(0)
    q, k, v = (torch.randn(3, 2, n, 32) for n in (queries, keys, keys))
    q, k = q * spread, k * spread
    mask = (torch.arange(keys) < torch.tensor([keys, keys - 7, keys // 2])[:, None])[:, None, None] if masked else None
    assert torch.equal(attend(q, k, v, mask), F.scaled_dot_product_attention(q, k, v, attn_mask=mask))
    q, k, v = q.bfloat16(), k.bfloat16(), v.bfloat16()
    exact = F.scaled_dot_product_attention(q.double(), k.double(), v.double(), attn_mask=mask)
    with torch.no_grad():
        found = attend(q, k, v, mask)
    usual = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    assert found.dtype == torch.bfloat16
    error, usual_error = (float((x.double() - exact).norm() / exact.norm()) for x in (found, usual))
    assert error < (3 if spread == 1 else 20) * usual_error, (error, usual_error)
    assert error < 0.01 * spread


def masks_of(engine: Engine, scene: Scene, texts: list[str], frames: int) -> tuple[np.ndarray, list[str]]:
    """(frames, texts, height, width) bool, and the stages at the end."""
    executor = engine.executor
    with engine.context():
        segmenter = Segmenter(executor, executor.encode_text(texts))
        masks = []
        for t in range(frames):
            rgb = scene.render(t)[0]
            step = segmenter.step(executor.encode([rgb]))
            masks.append((resize_masks(step.mask_logits, *rgb.shape[:2]) > 0).numpy())
    return np.stack(masks), [x.stage for x in step.objects]


def test_weights_may_be_lowered_once(small_weights: Path) -> None:
    """Autocast computes the same from float32 weights and from lowered ones, bit by bit."""
    whole = load_network(small_weights)[0]
    lowered = copy.deepcopy(whole)
    lower_weights(lowered, torch.bfloat16)
    image = torch.randn(1, 3, whole.config.image_size, whole.config.image_size)

    def results(network: ReSurgSAM2) -> tuple[torch.Tensor, ...]:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            features = network.encode_image(image)
            prompts = network.encode_text(["left grasper", "kidney"])
            prediction = network.detect(features, [features.main], prompts)
            memory = network.memorize(features.main, prediction.mask_logits, prediction.object_score)
        return (*features, *prediction[:4], memory)

    for a, b in zip(results(whole), results(lowered), strict=True):
        assert torch.equal(a, b)


def test_precision_on_a_cpu(small_weights: Path, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The program chooses bfloat16 for a full-size network on a processor that has it."""
    for has, large in ((True, "bf16"), (False, "fp32")):
        monkeypatch.setattr("resurgsam2_cli.segmenting.engine.computes_bfloat16", lambda has=has: has)
        assert build_engine(str(checkpoints["detection"]), None, "cpu", "auto").executor.precision == large
        assert build_engine(str(small_weights), None, "cpu", "auto").executor.precision == "fp32"
        assert build_engine(str(checkpoints["detection"]), None, "cpu", "fp32").executor.precision == "fp32"


def test_masks_in_bfloat16() -> None:
    """The bundled release goes through the same stages on a rendered scene, and the masks agree."""
    scene = Scene(2001, frames=40)
    texts = [scene.sentences(x)[0] for x in scene.targets if scene.sentences(x)]
    masks, stages = zip(
        *(masks_of(build_engine("demo", None, "cpu", x), scene, texts, 40) for x in ("fp32", "bf16")), strict=True
    )
    assert stages[0] == stages[1]
    assert "track" in stages[0]
    both, either = masks[0] & masks[1], masks[0] | masks[1]
    assert both.sum() / either.sum() > 0.98
