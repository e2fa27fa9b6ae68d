"""Folders of images, and single ones: upright, every page, and never more than is safe to open."""

from __future__ import annotations

import json
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from clips import number_of, numbered
from conftest import Cli
from PIL import Image

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.video.frames import Frame, Reading
from resurgsam2_cli.video.positions import Part
from resurgsam2_cli.video.source import open_source

ORIENTATION = 0x0112
LAID = {  # how a picture of an orientation lies in the file
    1: lambda x: x,
    2: lambda x: x[:, ::-1],
    3: lambda x: x[::-1, ::-1],
    4: lambda x: x[::-1],
    5: lambda x: x.transpose(1, 0, 2),
    6: lambda x: np.rot90(x),
    7: lambda x: np.rot90(x, 2).transpose(1, 0, 2),
    8: lambda x: np.rot90(x, -1),
}


def frames(source: Path, reading: Reading | None = None) -> list[Frame]:
    with open_source(str(source), reading) as opened:
        return list(opened.frames(Part()))


def image(number: int, orientation: int = 1) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(LAID[orientation](numbered(number))))


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tif", "mpo"])
@pytest.mark.parametrize("orientation", LAID)
def test_pictures_stand_upright(orientation: int, suffix: str, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    folder = tmp_path / "frames"
    folder.mkdir()
    for i in range(2):
        path = folder / f"{i}.{'jpg' if suffix == 'mpo' else suffix}"
        options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix in ("jpg", "mpo") else {}
        kinds = {"jpg": "JPEG", "mpo": "MPO", "tif": "TIFF"}
        image(i, orientation).save(path, kinds.get(suffix, suffix.upper()), exif=exif, **options)
    found = frames(folder)
    assert [number_of(x.rgb) for x in found] == [0, 1]
    assert {x.rgb.shape for x in found} == {(96, 160, 3)}


def test_an_orientation_behind_the_pixels(tmp_path: Path) -> None:
    """PNG allows it, and no reader of headers alone sees it."""
    image(5, 6).save(tmp_path / "plain.png")
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    content = exif.tobytes().removeprefix(b"Exif\0\0")
    chunk = b"eXIf" + content
    whole = struct.pack(">I", len(content)) + chunk + struct.pack(">I", zlib.crc32(chunk))
    data = (tmp_path / "plain.png").read_bytes()
    end = data.index(b"IEND") - 4
    (tmp_path / "late.png").write_bytes(data[:end] + whole + data[end:])
    (found,) = frames(tmp_path / "late.png")
    assert number_of(found.rgb) == 5


@pytest.mark.parametrize("suffix", ["tif", "png", "webp"])
def test_every_page_is_a_frame(suffix: str, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    more = [image(i) for i in range(1, 12)]
    image(0).save(folder / f"scan.{suffix}", save_all=True, append_images=more, quality=95)
    image(12).save(folder / f"tail.{suffix}", quality=95)
    found = frames(folder)
    assert [number_of(x.rgb) for x in found] == list(range(13))
    assert [x.name for x in found] == [*(f"scan-{i:02d}" for i in range(12)), "tail"]
    alone = frames(folder / f"scan.{suffix}")
    assert [number_of(x.rgb) for x in alone] == list(range(12))


def test_previews_are_no_pages(tmp_path: Path) -> None:
    """Smaller copies, as in pyramids of TIFF and in the MPO files of drones and telephones."""
    small = image(3).resize((80, 48))
    path = tmp_path / "scan.tif"
    image(3).save(path, save_all=True, append_images=[small], tiffinfo={0xFE: 0})
    with pytest.raises(InputError, match=r"is 80 x 48, but scan\.tif is 160 x 96"):
        frames(path)  # nothing says that it is a copy
    from PIL import TiffImagePlugin

    with TiffImagePlugin.AppendingTiffWriter(str(tmp_path / "pyramid.tif"), True) as file:
        image(3).save(file, "TIFF")
        file.newFrame()
        small.save(file, "TIFF", tiffinfo={0xFE: 1})
    assert [number_of(x.rgb) for x in frames(tmp_path / "pyramid.tif")] == [3]

    image(4).save(tmp_path / "drone.jpg", "MPO", save_all=True, append_images=[small])
    data = (tmp_path / "drone.jpg").read_bytes()
    first = data.index(b"0100", data.index(b"MPF\0"))  # the version; then comes the table
    entry = data.index(struct.pack("<L", 0x030000), first + 24) + 16  # of the second; the first is the primary one
    (tmp_path / "drone.jpg").write_bytes(data[:entry] + struct.pack("<L", 0x010001) + data[entry + 4 :])
    assert [number_of(x.rgb) for x in frames(tmp_path / "drone.jpg")] == [4]
    image(5).save(tmp_path / "stereo.jpg", "MPO", save_all=True, append_images=[image(6)])
    assert [number_of(x.rgb) for x in frames(tmp_path / "stereo.jpg")] == [5, 6]


def bomb(path: Path, width: int, height: int) -> None:
    """A small PNG file with a large picture in it, all black."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    packer, rows = zlib.compressobj(9), bytes(1 + (width + 7) // 8)
    packed = b"".join(packer.compress(rows) for _ in range(height)) + packer.flush()
    head = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", packed) + chunk(b"IEND", b""))


@pytest.mark.parametrize("size", [(10000, 9000), (40000, 40000)])
def test_pictures_too_large(size: tuple[int, int], cli: Cli, tmp_path: Path) -> None:
    bomb(tmp_path / "large.png", *size)
    done = cli("segment", tmp_path / "large.png", "-t", "x")
    assert done.code == 3
    assert "--max-pixels" in done.err
    assert done.err.count("\n") <= 2


def test_large_pictures_on_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    image(3).save(tmp_path / "3.png")
    with pytest.raises(InputError, match="more pixels than is safe to open"):
        frames(tmp_path / "3.png", Reading(most_pixels=1000))
    assert [number_of(x.rgb) for x in frames(tmp_path / "3.png", Reading(most_pixels=96 * 160))] == [3]


def test_pillows_guard_stays_on() -> None:
    """For whoever uses the Python functions."""
    import resurgsam2_cli.api  # noqa: F401

    assert Image.MAX_IMAGE_PIXELS is not None


def test_pipes_called_images(cli: Cli, tmp_path: Path) -> None:
    folder = tmp_path / "frames"
    folder.mkdir()
    image(0).save(folder / "0.png")
    os.mkfifo(folder / "1.png")
    done = cli("segment", folder, "-t", "x")
    assert done.code == 3
    assert "1.png: is called an image, but is no file" in done.err


def test_one_image(cli: Cli, small_weights: Path, tmp_path: Path) -> None:
    image(0).save(tmp_path / "one.png")
    run = ("-t", "x", "--weights", small_weights)
    assert cli("segment", tmp_path / "one.png", *run, "--frame-rate", "10").code == 0
    record = json.loads(Path("runs/one/run.json").read_text())
    assert (record["source"]["frames"], record["source"]["frame_rate"]) == (1, "10/1")
    assert [x.name for x in Path("runs/one/masks").iterdir()] == ["one.png"]
    assert cli("export", "runs", "-f", "coco", "--frames", "jpg", "-o", "c").code == 0
