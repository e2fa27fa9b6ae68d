"""What differs between two versions of a large file, so that one and the difference give back the other.

The first version, the base, is cut into chunks wherever a rolling hash of its last bytes is small. The other one, the
target, is cut by the same rule, so that chunks are found again behind what was inserted or taken out. Each one found
is extended in both directions for as long as the bytes are the same. A delta holds where in the base these parts are,
and the bytes between them, compressed:

==========  =============================================================================
9 bytes     a name for what it is
16 bytes    the checksum of everything that follows
32 bytes    the checksums of base and target
the rest    gzip of steps: length and place in the base, or length, -1 and as many bytes
==========  =============================================================================
"""

from __future__ import annotations

import gzip
import hashlib
import struct
from collections.abc import Iterator
from io import BufferedIOBase
from pathlib import Path

import numpy as np

from resurgsam2_cli.errors import InputError
from resurgsam2_cli.files.atomic import replacing

_MAGIC = b"R2 delta\1"
_SUM = 16
"""Bytes of a checksum."""

_STEP = struct.Struct("<qq")
_NEW = -1

_CHUNK = 1024
"""Bytes of a chunk, on average, of a base that is not very large; a power of two."""

_MOST_CHUNKS = 2**18
"""Larger chunks are chosen so that a base has about as many: a table of them takes some 50 MB."""

_WINDOW = 32
"""Bytes that the rolling hash sees: as many as it has bits, as each byte is shifted out after so many steps."""

_BLOCK = 2**17
"""Bytes that are hashed at once: few enough for the processor's cache."""

_PIECE = 2**20
"""Bytes that are written at once."""

_GEAR = np.random.default_rng(0).integers(0, 2**32, 256, np.uint32)
"""What each byte adds to the hash. Deltas do not depend on it: the base's chunks are hashed anew for each."""


def write_delta(base: Path, target: Path, delta: Path, *, chunk: int | None = None) -> None:
    """Write a file from which :func:`apply_delta` restores ``target`` if it has ``base``.

    ``delta`` appears when it is complete. Nothing may write to the other two meanwhile. ``chunk`` is the average length
    of what is searched for, in bytes, a power of two: by default 1024, and more in a base of over a quarter of a
    gigabyte. Memory is bounded for files of any size, not counting what the system caches of them. Raises ``OSError``.
    """
    old, new = _content(base), _content(target)
    chunk = chunk or max(_CHUNK, 1 << (len(old) // _MOST_CHUNKS).bit_length())
    with replacing(delta) as partial, partial.open("w+b") as file:
        file.write(_MAGIC + bytes(_SUM))
        file.write(_sum(old) + _sum(new))
        with gzip.GzipFile("", "wb", fileobj=file, mtime=0) as steps:
            for start, stop, place in _steps(old, new, chunk):
                steps.write(_STEP.pack(stop - start, place))
                if place == _NEW:
                    for piece in _pieces(new[start:stop]):
                        steps.write(piece)
        total = _sum_of_rest(file)
        file.seek(len(_MAGIC))
        file.write(total)


def apply_delta(base: Path, delta: Path, out: Path) -> None:
    """Restore the target of a delta as ``out``, which appears when it is complete and is the very same.

    Raises :class:`InputError` if ``delta`` is damaged or ``base`` is not the file that it was made from, and
    ``OSError``.
    """
    with delta.open("rb") as file:
        if file.read(len(_MAGIC) + _SUM) != _MAGIC + _sum_of_rest(file):
            raise _damaged(delta)
        file.seek(len(_MAGIC) + _SUM)
        of_base, of_target = file.read(_SUM), file.read(_SUM)
        old = _content(base)
        if _sum(old) != of_base:
            raise InputError(
                f"{base}: is not the version from which {delta.name} leads to another one (it was changed)",
                "undo what changed it",
            )
        total = hashlib.blake2b(digest_size=_SUM)
        with replacing(out) as partial:
            with partial.open("wb") as restored:
                for piece in _restored(old, gzip.GzipFile(fileobj=file)):
                    total.update(piece)
                    restored.write(piece)
            if total.digest() != of_target:
                raise _damaged(delta)


def _restored(old: np.ndarray, steps: gzip.GzipFile) -> Iterator[memoryview | bytes]:
    """The pieces of the target."""
    while step := steps.read(_STEP.size):
        length, place = _STEP.unpack(step)
        if place == _NEW:
            for start in range(0, length, _PIECE):
                yield steps.read(min(_PIECE, length - start))
        else:
            yield from _pieces(old[place : place + length])


def _damaged(delta: Path) -> InputError:
    return InputError(f"{delta}: is damaged", "copy it again from where it came, or do without it")


# --- Searching ---------------------------------------------------------------------------------------------------


def _steps(old: np.ndarray, new: np.ndarray, chunk: int) -> Iterator[tuple[int, int, int]]:
    """Parts of the target in order, each with its start, its end, and where it is in the base or :data:`_NEW`."""
    places: dict[bytes, int] = {}
    for start, stop in _chunks(old, chunk):
        places.setdefault(_key(old[start:stop]), start)
    done = 0
    for start, stop in _chunks(new, chunk):
        if start < done or (found := places.get(_key(new[start:stop]))) is None:
            continue
        before = _alike(old[:found][::-1], new[done:start][::-1])
        behind = _alike(old[found:], new[start:])
        if start - before > done:
            yield done, start - before, _NEW
        done = start + behind
        yield start - before, done, found - before
    if done < len(new):
        yield done, len(new), _NEW


def _chunks(data: np.ndarray, chunk: int) -> Iterator[tuple[int, int]]:
    """Start and end of each chunk: between a quarter and sixteen times of the average length, but for the last one."""
    shortest, longest, small = chunk // 4, chunk * 16, 2**32 // chunk
    start = 0
    for begin in range(0, len(data), _BLOCK):
        first, stop = max(0, begin - _WINDOW + 1), min(begin + _BLOCK, len(data))
        ends = np.flatnonzero(_rolling(data[first:stop]) < small) + first + _WINDOW
        while True:
            at = int(ends.searchsorted(start + shortest))
            end = min(start + longest, int(ends[at]) if at < len(ends) else stop + 1)
            if end > stop:
                break  # the next block may have one
            yield start, end
            start = end
    if start < len(data):
        yield start, len(data)


def _rolling(data: np.ndarray) -> np.ndarray:
    """A hash of each :data:`_WINDOW` bytes that follow one another, uint32: each byte's value, shifted by its distance.

    The sum over a window is made of two over its halves, and so on.
    """
    sums, width = _GEAR[data], 1
    while width < _WINDOW:
        wider = sums[:-width] << np.uint32(width)
        wider += sums[width:]
        sums, width = wider, width * 2
    return sums


def _key(chunk: np.ndarray) -> bytes:
    """Short, as bytes are compared anyway: two chunks of the same key cost a search, no more."""
    return hashlib.blake2b(chunk.data, digest_size=8).digest()


def _alike(one: np.ndarray, other: np.ndarray) -> int:
    """How many bytes at the start of both are the same."""
    length = min(len(one), len(other))
    for start in range(0, length, _BLOCK):
        stop = min(start + _BLOCK, length)
        differing = one[start:stop] != other[start:stop]
        first = int(differing.argmax())
        if differing[first]:
            return start + first
    return length


# --- Files -------------------------------------------------------------------------------------------------------


def _content(path: Path) -> np.ndarray:
    """The bytes of a file, which are read when they are used. Raises ``OSError``."""
    if not path.stat().st_size:
        return np.zeros(0, np.uint8)  # which cannot be mapped
    return np.asarray(np.memmap(path, np.uint8, "r"))


def _pieces(data: np.ndarray) -> Iterator[memoryview]:
    return (data[start : start + _PIECE].data for start in range(0, len(data), _PIECE))


def _sum(data: np.ndarray) -> bytes:
    return hashlib.blake2b(data.data, digest_size=_SUM).digest()


def _sum_of_rest(file: BufferedIOBase) -> bytes:
    """The checksum of what comes behind the place of a delta's own."""
    file.seek(len(_MAGIC) + _SUM)
    return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=_SUM)).digest()
