"""A delta and one version of a file give back the other one, byte by byte, or an error."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from killing import every_kill

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files import delta as module
from resurgsam2_cli.files.delta import apply_delta, write_delta
from resurgsam2_cli.files.kinds import is_partial_name


def there_and_back(folder: Path, base: bytes, target: bytes, chunk: int | None = None) -> int:
    """Check that the target comes back; return the size of the delta in bytes."""
    paths = [folder / x for x in ("base", "target", "delta", "out")]
    paths[0].write_bytes(base)
    paths[1].write_bytes(target)
    write_delta(*paths[:3], chunk=chunk)
    apply_delta(paths[0], paths[2], paths[3])
    assert paths[3].read_bytes() == target
    assert (paths[0].read_bytes(), paths[1].read_bytes()) == (base, target)
    assert {x.name for x in folder.iterdir()} == {"base", "target", "delta", "out"}
    return paths[2].stat().st_size


def some_bytes(rng: random.Random, most: int) -> bytes:
    """Noise, text, or a few bytes again and again."""
    length = rng.randrange(most)
    alphabet = rng.choice([bytes(range(256)), b'{"x": 1}\n', b"ab", b"\0"])
    content = bytes(rng.choices(alphabet, k=length))
    return content[: rng.randrange(1, 50)] * 40 if rng.random() < 0.2 else content


def edited(rng: random.Random, content: bytes) -> bytes:
    for _ in range(rng.randrange(8)):
        at, until = sorted(rng.randrange(len(content) + 1) for _ in range(2))
        until = min(until, at + rng.choice([0, 1, 30, 2000]))
        more = rng.choice([b"", b"x", content[:700], some_bytes(rng, 1000)])
        content = content[:at] + more + content[until:]
    return content


@pytest.mark.parametrize("seeds", [range(i, i + 50) for i in range(0, 400, 50)], ids=str)
def test_random_edits(seeds: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for seed in seeds:
        rng = random.Random(seed)
        monkeypatch.setattr(module, "_BLOCK", rng.choice([64, 1000, 2**17]))
        monkeypatch.setattr(module, "_PIECE", rng.choice([1, 100, 2**20]))
        base = some_bytes(rng, 20_000)
        target = some_bytes(rng, 20_000) if rng.random() < 0.1 else edited(rng, base)
        there_and_back(tmp_path, base, target, rng.choice([16, 64, 256, None]))
        for path in tmp_path.iterdir():
            path.write_bytes(b"")


def noise(length: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(length)


@pytest.mark.parametrize("content", [b"", b"x", noise(31), noise(100_000)], ids=len)
def test_files_that_are_identical(content: bytes, tmp_path: Path) -> None:
    assert there_and_back(tmp_path, content, content) < 110


def test_empty_files(tmp_path: Path) -> None:
    content = noise(50_000)
    assert there_and_back(tmp_path, content, b"") < 110
    assert 50_000 < there_and_back(tmp_path, b"", content) < 50_200


def test_everything_is_different(tmp_path: Path) -> None:
    assert there_and_back(tmp_path, noise(3_000_000), noise(3_000_000, 1)) < 3_010_000
    assert there_and_back(tmp_path, b"\0" * 3_000_000, b"\1" * 3_000_000) < 10_000


def test_what_moved_is_found(tmp_path: Path) -> None:
    """Only what is new takes room: a step takes some twenty bytes."""
    content = noise(1_000_000)
    changes = {
        "inserted": (content[:400_001] + b"new" + content[400_001:], 200),
        "replaced": (content[:400_001] + b"new" + content[400_004:], 200),
        "removed": (content[:400_001] + content[490_000:], 200),
        "swapped": (content[500_001:] + content[:500_001], 200),
        "in front": (b"new" * 1000 + content, 300),
        "at the end": (content + b"new", 200),
        "twice": (content + content, 200),
        "many": (b"".join(content[i : i + 9_990] + b"<>" for i in range(0, 1_000_000, 10_000)), 4_000),
    }
    for name, (target, most) in changes.items():
        assert there_and_back(tmp_path, content, target) < most, name


def lines(count: int) -> list[bytes]:
    """Lines like those of ``annotations.json``."""
    rng = random.Random(5)
    letters = "".join(chr(x) for x in range(48, 112))
    masks = ("".join(rng.choices(letters, k=300)) for _ in range(count))
    return [json.dumps({"id": i, "area": i * 997, "counts": x}).encode() + b",\n" for i, x in enumerate(masks)]


def test_one_line_of_a_large_file(tmp_path: Path) -> None:
    before = lines(80_000)
    after = [*before[:40_000], before[40_000].replace(b'"area"', b'"other"'), *before[40_001:]]
    base, target = b"".join(before), b"".join(after)
    assert len(base) > 27_000_000
    assert there_and_back(tmp_path, base, target) < 300


def test_hundreds_of_lines(tmp_path: Path) -> None:
    """A delta is about as large as what has changed, compressed."""
    before = lines(20_000)
    after = [x for i, x in enumerate(before) if i % 1000 != 3]
    for i in range(50, len(after), 100):
        after[i] = after[i][:-30] + after[i - 1][-200:]
    size = there_and_back(tmp_path, b"".join(before), b"".join(after))
    assert size < 200 * (200 + 40)


def test_large_bases_have_larger_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The table of chunks is bounded."""
    monkeypatch.setattr(module, "_MOST_CHUNKS", 10)
    found = []
    chunks = module._chunks

    def counted(data: np.ndarray, chunk: int) -> list[tuple[int, int]]:
        found.append(list(chunks(data, chunk)))
        return found[-1]

    monkeypatch.setattr(module, "_chunks", counted)
    content = noise(1_000_000)
    assert there_and_back(tmp_path, content, content[:500_000] + b"new" + content[500_000:]) < 1000
    assert 3 < len(found[0]) < 25


@pytest.mark.parametrize("content", [noise(300_000), b"\0" * 300_000, b"ab" * 150_000, b"x" * 40], ids=range(4))
@pytest.mark.parametrize("block", [100, 4096, 2**17])
def test_chunks(content: bytes, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """They cover the file, are neither short nor long, and do not depend on how many bytes are hashed at once."""
    data = np.frombuffer(content, np.uint8)
    whole = list(module._chunks(data, 1024))
    assert [0, *(stop for _, stop in whole)] == [*(start for start, _ in whole), len(data)]
    lengths = [stop - start for start, stop in whole]
    assert all(256 <= x <= 16384 for x in lengths[:-1])
    assert 0 < lengths[-1] <= 16384
    monkeypatch.setattr(module, "_BLOCK", block)
    assert list(module._chunks(data, 1024)) == whole
    if content == noise(300_000):
        assert 700 < np.mean(lengths) < 2000


def test_the_rolling_hash_is_that_of_its_window() -> None:
    data = np.frombuffer(noise(200), np.uint8)
    sums = module._rolling(data)
    assert len(sums) == 200 - 31
    for i in (0, 1, 168):
        window = [int(module._GEAR[x]) << (31 - j) for j, x in enumerate(data[i : i + 32])]
        assert int(sums[i]) == sum(window) % 2**32
    assert len(module._rolling(data[:31])) == 0


# --- Errors ------------------------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path: Path) -> Path:
    base = noise(20_000)
    (tmp_path / "base").write_bytes(base)
    (tmp_path / "target").write_bytes(base[:5_000] + b"some new text" + base[4_000:])
    write_delta(tmp_path / "base", tmp_path / "target", tmp_path / "delta", chunk=256)
    return tmp_path


@pytest.mark.parametrize("change", ["another byte", "longer", "shorter", "empty", "the target"])
def test_a_wrong_base_is_an_error(change: str, made: Path) -> None:
    base = (made / "base").read_bytes()
    wrong = {
        "another byte": base[:19_000] + bytes([base[19_000] ^ 1]) + base[19_001:],
        "longer": base + b"x",
        "shorter": base[:-1],
        "empty": b"",
        "the target": (made / "target").read_bytes(),
    }
    (made / "base").write_bytes(wrong[change])
    with pytest.raises(InputError, match="not the version"):
        apply_delta(made / "base", made / "delta", made / "out")
    assert not [x for x in made.iterdir() if "out" in x.name]


def test_a_damaged_delta_is_an_error(made: Path) -> None:
    whole = (made / "delta").read_bytes()
    damaged = [whole[:i] for i in range(len(whole))]
    damaged += [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(len(whole))]
    damaged += [whole + b"\0", whole[:40] + whole[41:], (made / "base").read_bytes()]
    for content in damaged:
        (made / "delta").write_bytes(content)
        with pytest.raises(InputError, match="damaged"):
            apply_delta(made / "base", made / "delta", made / "out")
    assert not [x for x in made.iterdir() if "out" in x.name]


def test_wrong_bytes_do_not_get_a_name(made: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Were there a mistake in how a delta is made or applied, the target's checksum would show it."""
    monkeypatch.setattr(module, "_alike", lambda one, other: min(len(one), len(other)))
    write_delta(made / "base", made / "target", made / "delta", chunk=256)
    (made / "out").write_bytes(b"what was there")
    with pytest.raises(InputError):
        apply_delta(made / "base", made / "delta", made / "out")
    assert (made / "out").read_bytes() == b"what was there"


def test_files_that_are_missing(made: Path) -> None:
    (made / "base").unlink()
    with pytest.raises(FileNotFoundError):
        write_delta(made / "base", made / "target", made / "other")
    with pytest.raises(FileNotFoundError):
        apply_delta(made / "base", made / "delta", made / "out")
    assert {x.name for x in made.iterdir()} == {"target", "delta"}


def test_a_kill_leaves_no_half_file(tmp_path: Path) -> None:
    base, target = noise(30_000), noise(30_000)[:20_000] + b"x" + noise(30_000)[20_000:]

    def prepare(folder: Path) -> None:
        (folder / "base").write_bytes(base)
        (folder / "target").write_bytes(target)

    def work(folder: Path) -> None:
        write_delta(folder / "base", folder / "target", folder / "delta")
        apply_delta(folder / "base", folder / "delta", folder / "out")

    steps = 0
    whole: bytes | None = None
    for folder in [*every_kill(prepare, work, tmp_path)][::-1]:
        if (folder / "delta").exists():
            whole = whole or (folder / "delta").read_bytes()
            assert (folder / "delta").read_bytes() == whole
        assert not (folder / "out").exists()
        work(folder)
        assert (folder / "out").read_bytes() == target
        assert not [x for x in folder.iterdir() if is_partial_name(x.name)]
        steps += 1
    assert steps >= 4
