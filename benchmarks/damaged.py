"""Damaged video files: each must end in time, in an error line or a whole run, and touch nothing else.

    python -m benchmarks.damaged [--count 300] [--seed 0] [--weights demo] [--only text]

Files of many containers are cut at each box, their bits flipped, their sizes, counts and pictures made absurd, their
headers exchanged. ``segment`` is run on each in a process of its own. A finding is: more than ten seconds, more than
2 GB of memory, a crash, a traceback, an exit code other than 0 and 3, or a file outside of the output folder. Exits
with 1 if there is one; what caused it is kept in ``--keep``.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from clips import KINDS, make

_LONGEST = 10  # seconds
_GIVE_UP = 60  # seconds
_MEMORY = 2 * 2**30  # bytes
_SOURCES = (
    "mp4", "mp4, fragmented", "mov", "mkv", "webm, vp9", "avi, mjpeg", "flv", "ts", "ps", "wmv", "ogg", "gif", "mxf",
    "raw h264", "mp4, hevc", "vob", "sound", "prores", "edit list",
)  # fmt: skip


@dataclass(frozen=True)
class Box:
    """A box of an MP4 file."""

    kind: bytes
    begin: int
    size: int


def boxes(data: bytes, begin: int = 0, end: int | None = None) -> Iterator[Box]:
    """All boxes, from the outside in."""
    end = len(data) if end is None else end
    while begin + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, begin)
        if size < 8:
            return
        yield Box(kind, begin, size)
        if kind in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"edts", b"moof", b"traf", b"dinf", b"mvex"):
            yield from boxes(data, begin + 8, begin + size)
        elif kind == b"stsd":
            yield from boxes(data, begin + 16, begin + size)
        begin += size


def damage(files: dict[str, bytes], seed: int) -> Iterator[tuple[str, bytes]]:
    """Names and contents of damaged files without end: each way in turn, on sources and at places drawn."""
    chance = random.Random(seed)
    for kind in ("mp4", "mp4, fragmented"):
        for box in boxes(files[kind]):
            name = f"{kind} cut before {box.kind.decode('latin-1')} at {box.begin}"
            yield f"{name}.mp4", files[kind][: box.begin] or b"\0"
    while True:
        for way in (_flipped, _box_sizes, _absurd_numbers, _no_samples, _cut, _zeroed, _header_of_another, _shuffled):
            kind = chance.choice(_SOURCES)
            if way in (_box_sizes, _no_samples):
                kind = chance.choice(("mp4", "mp4, fragmented", "mov", "mp4, hevc", "edit list"))
            data = way(bytearray(files[kind]), chance, files)
            yield f"{kind} {way.__name__.strip('_')} {chance.randrange(10**6)}.{KINDS[kind].suffix}", bytes(data)


def _flipped(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> bytearray:
    for _i in range(chance.choice((1, 10, 200))):
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    return data


def _box_sizes(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> bytearray:
    box = chance.choice(list(boxes(bytes(data))))
    struct.pack_into(">I", data, box.begin, chance.choice((0, 1, 7, 8, box.size + 1, 2**31, 2**32 - 1)))
    return data


def _absurd_numbers(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> bytearray:
    """Large numbers where a header has its sizes, counts and rates."""
    for _i in range(chance.choice((1, 3))):
        value = chance.choice((0, 2**15, 2**16 - 1, 2**31 - 1, 2**32 - 1))
        place = chance.randrange(min(len(data) - 4, 1500))
        struct.pack_into(chance.choice((">I", "<I")), data, place, value)
    return data


def _no_samples(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> bytearray:
    """Tables of length zero, or of one that the file cannot hold."""
    tables = (b"stsz", b"stts", b"stsc", b"stco", b"ctts", b"stss", b"trun", b"elst", b"mdhd", b"tkhd")
    found = [x for x in boxes(bytes(data)) if x.kind in tables]
    box = chance.choice(found)
    place = box.begin + min(box.size - 4, 16 if box.kind == b"stsz" else 12)
    struct.pack_into(">I", data, place, chance.choice((0, 1, 10**6, 2**31 - 1, 2**32 - 1)))
    return data


def _cut(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> bytearray:
    return data[: chance.randrange(1, len(data))]


def _zeroed(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> bytearray:
    begin = chance.randrange(len(data))
    end = min(len(data), begin + chance.choice((64, 512, 10**6)))
    data[begin:end] = bytes(end - begin)
    return data


def _header_of_another(data: bytearray, chance: random.Random, files: dict[str, bytes]) -> bytearray:
    other = files[chance.choice(_SOURCES)]
    length = chance.choice((16, 200, 1000))
    return bytearray(other[:length]) + data[chance.choice((0, length)) :]


def _shuffled(data: bytearray, chance: random.Random, _: dict[str, bytes]) -> bytearray:
    size = chance.choice((188, 512, 4096))
    parts = [data[i : i + size] for i in range(0, len(data), size)]
    middle = parts[1:]
    chance.shuffle(middle)
    return bytearray(b"".join([*parts[:1], *middle]))


def tried(path: Path, work: Path, weights: str) -> str:
    """Run ``segment`` on a file in a process of its own; return what was wrong with it, or the exit code."""
    work.mkdir()
    log = work.with_suffix(".log")
    child = os.fork()
    if child == 0:
        _segment(path, work, log, weights)
    begin = time.monotonic()
    while (ended := os.wait4(child, os.WNOHANG))[0] == 0:
        if time.monotonic() - begin > _GIVE_UP:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"no end after {_GIVE_UP} s"
        time.sleep(0.01)
    seconds = time.monotonic() - begin
    _, status, usage = ended
    said = log.read_text(errors="replace")
    if os.WIFSIGNALED(status):
        return f"killed by signal {os.WTERMSIG(status)}"
    code = os.WEXITSTATUS(status)
    if code not in (0, 3):
        return f"exit code {code}: {said.strip()[-300:]}"
    if "Traceback" in said or (code == 3 and "resurgsam2: " not in said):
        return f"said: {said.strip()[-300:]}"
    if seconds > _LONGEST:
        return f"took {seconds:.1f} s"
    if usage.ru_maxrss * 1024 > _MEMORY:
        return f"took {usage.ru_maxrss / 2**10:.0f} MiB"
    if left := [x.name for x in work.iterdir() if x.name != "runs"]:
        return f"made {left}"
    return f"exit code {code}"


def _segment(path: Path, work: Path, log: Path, weights: str) -> None:
    """The process of its own; does not return."""
    code: int | str | None = 1
    try:
        os.chdir(work)
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        from resurgsam2_cli.__main__ import main

        sys.argv = ["resurgsam2", "segment", str(path), "-t", "left grasper", "--weights", weights, "--no-coco"]
        main()
    except SystemExit as end:
        code = end.code
    finally:
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def main() -> None:
    """Print a line for each finding, and how the others ended."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="demo")
    parser.add_argument("--only", default="", help="a part of the names of files")
    parser.add_argument("--keep", type=Path, default=Path("damaged"), help="folder for what caused a finding")
    options = parser.parse_args()
    import torch

    import resurgsam2_cli.segmenting.pipeline  # noqa: F401  (before the processes: each would take seconds for it)

    torch.set_num_threads(1)
    ends, findings = Counter[str](), 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {kind: make(kind, folder / f"source{i}").path.read_bytes() for i, kind in enumerate(_SOURCES)}
        wanted = (x for x in damage(files, options.seed) if options.only in x[0])
        for i, (file, data) in zip(range(options.count), wanted, strict=False):
            path = folder / file
            path.write_bytes(data)
            end = tried(path, folder / f"work{i}", options.weights)
            if end.startswith("exit code ") and end[10:] in ("0", "3"):
                ends[end] += 1
            else:
                findings += 1
                options.keep.mkdir(exist_ok=True)
                shutil.copy(path, options.keep)
                print(f"{file}: {end}", flush=True)
            path.unlink()
            shutil.rmtree(folder / f"work{i}")
    print(", ".join(f"{end}: {count}" for end, count in sorted(ends.items())), f"findings: {findings}", sep=", ")
    sys.exit(1 if findings else 0)


if __name__ == "__main__":
    main()
