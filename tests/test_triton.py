"""Triton kernels without a GPU: what they compute in Triton's interpreter, and that they compile for every card."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is for Linux and Windows")

FOLDERS = os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parents[1])])


def run(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": FOLDERS, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


KERNELS = """
import torch
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention
from unittest.mock import patch
from model import fused, triton_layers
from model.positions import rotary_table, rotate
from model.preprocess import resized

torch.manual_seed(0)
for shape, transposed in (((2, 37, 24), False), ((3, 64, 4), True), ((1, 5, 768), False), ((2, 50, 96), True)):
    x = torch.randn(shape[0], shape[2], shape[1]).transpose(1, 2) if transposed else torch.randn(shape)
    weight, bias = torch.randn(2, shape[2])
    y = layer_norm(x, shape[2:], weight, bias, 1e-6)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for last in (False, True):
            found = triton_layers.normalize(x, weight, bias, 1e-6, dtype, gelu=last)
            assert found.is_contiguous()
            expected = (gelu(y) if last else y).to(dtype)
            torch.testing.assert_close(found, expected, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)

for dtype in (torch.float32, torch.bfloat16):
    table = rotary_table(4, 24, torch.device("cpu"))
    x = torch.randn(2, 40, 48).to(dtype)[:, :, :24]  # rows that do not follow one another
    expected = torch.cat((rotate(x[:, :32], table), x[:, 32:]), dim=1)
    triton_layers.rotate_in_place(x, table, 32)
    torch.testing.assert_close(x, expected)

def attend(q, k, v):
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)

objects, parts, places, dim, pointers = 3, 5, 16, 64, 12
q = torch.randn(objects, places, dim)
k, v = torch.randn(2, objects, parts * places + pointers, dim)
counts = torch.tensor([[5, 12], [2, 3], [1, 1]])
valid = torch.cat(((torch.arange(parts) < counts[:, :1]).repeat_interleave(places, 1),
                   torch.arange(pointers) < counts[:, 1:]), 1)
v[2, places : parts * places] = float("nan")  # a part that is not valid is not even looked at
kernels = patch("model.fused._kernels", lambda x: triton_layers)
with torch.no_grad(), kernels, patch("model.fused._attend_with_sums", attend):
    found = fused.attend_in_parts(q, k, v, parts, valid)
    whole = fused.attend_in_parts(q, k, v.nan_to_num(), parts, None)
expected = scaled_dot_product_attention(q, k, v.nan_to_num(), attn_mask=valid[:, None])
torch.testing.assert_close(found, expected)
torch.testing.assert_close(whole, scaled_dot_product_attention(q, k, v.nan_to_num()))

for tokens in (1, 12, 64, 200, 256, 300):  # more than fit a card are attended to in the plain way
    k, v = torch.randn(2, objects, tokens, dim)
    valid = torch.arange(tokens) < torch.tensor([[1], [tokens], [0]])
    with torch.no_grad(), kernels:
        found = fused._attend_to_few(q, k, v, valid)
    with torch.no_grad():
        expected = fused._attend_to_few(q, k, v, valid)
    for one, other in zip(found, expected):
        torch.testing.assert_close(one, other)

for height, width, new_height, new_width in ((45, 80, 32, 32), (9, 7, 32, 32), (33, 32, 32, 32), (120, 5, 8, 90)):
    images = torch.randint(0, 2, (3, height, 2 * width, 3), dtype=torch.uint8) * 255  # weights overshoot at edges
    images = images[:, :, :width]
    expected = resized(images, new_height, new_width)
    with torch.no_grad(), kernels:
        assert torch.equal(resized(images, new_height, new_width), expected)
"""


def test_layers() -> None:
    """Each kernel gives what PyTorch's operations give, for any strides, sizes and types."""
    run(KERNELS, TRITON_INTERPRET="1")


def test_a_machine_without_kernels_says_why() -> None:
    """No driver, no C compiler, or no Triton: a reason in one line, never an exception."""
    code = "import torch; from model.fused import triton_missing; print(triton_missing(torch.device('cpu')))"
    (reason,) = run(code, TRITON_INTERPRET="0").splitlines()
    assert reason


CHECK = """
import sys
import torch
from dataclasses import replace
from unittest.mock import patch
from model import fused, self_check, triton_layers

def attend(q, k, v):
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(2, 3)
    return scores.softmax(-1) @ v, scores.logsumexp(-1)

broken = sys.argv[1]
whole = getattr(triton_layers, broken, None)

def wrong(*arguments, **keywords):
    result = whole(*arguments, **keywords)
    if result is None:
        arguments[0].mul_(0.9)
        return None
    return result * 0.9

def fails(*arguments, **keywords):
    raise RuntimeError("no such kernel\\nfor this card")

ways = ("triton layers", "attention in parts")
small = replace(self_check._SMALL, image_size=64)  # the interpreter takes its time
with patch.object(self_check, "_SMALL", small), patch.object(self_check, "_FRAMES", 3), patch(  # 1 detected, 2 tracked
    "model.fused._attend_with_sums", fails if broken == "attention" else attend
), patch(
    "model.fused._kernels", lambda x: triton_layers if fused.allowed("triton layers") else None
), patch.object(triton_layers, broken, wrong if whole else None, create=True):
    found = self_check.self_check(torch.device("cpu"), "fp32", ways)
for way in ways:
    print(f"{way}: {found.get(way, 'right')}")
    assert fused.allowed(way)  # for whoever is not asked to do without it
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("broken", "found"),
    [
        ("nothing", ("right", "right")),
        ("normalize", ("masks are off by", "masks are off by")),
        ("rotate_in_place", ("masks are off by", "masks are off by")),
        ("sum_parts", ("right", "masks are off by")),
        ("attention", ("right", "no such kernel for this card")),
    ],
)
def test_what_is_wrong_is_turned_off(broken: str, found: tuple[str, str]) -> None:
    """The self-check sees kernels that compute something else, and those that do not run. Slow: interpreted kernels."""
    code = f"import sys; sys.argv[1:] = [{broken!r}]\n{CHECK}"
    lines = run(code, TRITON_INTERPRET="1").splitlines()
    for line, way, expected in zip(lines, ("triton layers", "attention in parts"), found, strict=True):
        assert line.startswith(f"{way}: {expected}")


COMPILE = """
import itertools
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from model import triton_layers, triton_scan

def compiled(kernel, card, constants, **types):
    signature = {name: types.get(name, "constexpr" if name in constants else "i32") for name in kernel.arg_names}
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants)
    made = triton.compile(source, target=GPUTarget("cuda", card, 32))
    assert made.asm["cubin"]

card = int(sys.argv[1])
floats = {x: "*fp32" for x in ("u", "delta", "A", "B", "C", "D", "bias", "states", "elapsed", "y")}
for last in (False, True):
    compiled(triton_scan._chunk, card, {"LAST": last, "CHUNK": 64, "BLOCK": 32, "STATE": 16}, **floats)
compiled(triton_scan._carry, card, {"BLOCK": 32, "STATE": 16}, **floats)
compiled(
    triton_layers._resample, card, {"FRACTION": 22, "BLOCK": 4096}, x="*u8", at="*i64", weights="*i32", y="*u8"
)
for type in ("*fp32", "*bf16", "*fp16"):
    for gelu, transposed in itertools.product((False, True), repeat=2):
        constants = {"GELU": gelu, "TRANSPOSED": transposed, "ROWS": 16, "WIDTH": 256}
        compiled(triton_layers._normalize, card, constants, x=type, weight="*fp32", bias="*fp32", y=type, eps="fp32")
    compiled(triton_layers._rotate, card, {"ROWS": 16, "WIDTH": 256}, x=type, table="*fp32")
    compiled(
        triton_layers._sum_parts, card, {"ROWS": 16, "WIDTH": 256, "PARTS": 16}, outputs=type, logsumexp="*fp32",
        valid="*u8", last="*fp32", last_logsumexp="*fp32", y=type,
    )
    for tokens in (64, 256):
        compiled(
            triton_layers._attend_to_few, card, {"ROWS": 16, "TOKENS": tokens, "BLOCK": 32}, q=type, k=type, v=type,
            valid="*u8", y="*fp32", logsumexp="*fp32", scale="fp32", never="fp32",
        )
"""


@pytest.mark.parametrize("card", [75, 80, 90, 120])
def test_kernels_compile(card: int) -> None:
    """Ahead of time, for each generation of cards from a T4 to the newest, in every precision."""
    run(f"import sys; sys.argv[1:] = ['{card}']\n{COMPILE}", TRITON_INTERPRET="0")
