"""What a checkpoint may ask of torch's unpickler, looked at before it is asked."""

from __future__ import annotations

import pickle
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

_DEEPEST = 100
"""Tuples in tuples. Python hashes and compares them without looking after its stack: a million end the process."""

_LEGACY = 5
"""Pickles at the beginning of a file of torch before 1.6: magic, version, system, the object, names of storages."""


def is_zip(path: Path) -> bool:
    """Whether torch, or Python, takes a file for a zip file. Raises ``OSError``."""
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04" or zipfile.is_zipfile(path)


def check_pickles(path: Path) -> None:
    """Raise an error if unpickling a checkpoint could take far more memory than its size, or end the process.

    Torch refuses code by itself, but it unpacks compressed members at any size, makes a ``bytearray`` of any length,
    and has tuples of any depth. On bytes that are no pickle, errors of any kind are raised.
    """
    if is_zip(path):
        with zipfile.ZipFile(path) as file:
            _check_members(file, path.stat().st_size)
            for name in file.namelist():
                if name.lower().endswith("data.pkl"):
                    with file.open(name) as stream:
                        _check(stream)
    else:
        with path.open("rb") as legacy:
            for _ in range(_LEGACY):
                _check(legacy)


def _check_members(file: zipfile.ZipFile, size: int) -> None:
    for x in file.infolist():
        if x.compress_type != zipfile.ZIP_STORED or x.flag_bits & 1:
            raise zipfile.BadZipFile(f"{x.filename} in it is compressed or encrypted, which torch.save does not do")
    if sum(x.file_size for x in file.infolist()) > size:
        raise zipfile.BadZipFile("its members are larger than itself")


def _check(stream: IO[bytes]) -> None:
    for depth, name in _made(stream):
        if depth > _DEEPEST:
            raise pickle.UnpicklingError("it has tuples in tuples without end")
        if name.split()[-1:] == ["bytearray"]:
            raise pickle.UnpicklingError("it has bytes beside tensors")


def _made(stream: IO[bytes]) -> Iterator[tuple[int, str]]:
    """For each step of a pickle, how deep the tuples of its result are, and the name that it looks up."""
    stack: list[int] = []
    marks: list[int] = []
    memo: dict[int, int] = {}
    for opcode, argument, _ in pickletools.genops(stream):
        name = opcode.name
        if name == "MARK":
            marks.append(len(stack))
        elif "PUT" in name or name == "MEMOIZE":
            memo[len(memo) if argument is None else int(argument)] = stack[-1]
        elif "GET" in name:
            stack.append(memo[int(argument or 0)])
        else:
            takes = opcode.stack_before
            first = len(stack)
            if pickletools.markobject in takes:
                first, takes = marks.pop(), takes[: takes.index(pickletools.markobject)]
            first -= len(takes)
            if first < 0:
                raise pickle.UnpicklingError("it takes more than it has")
            depth = max(stack[first:], default=0) + name.startswith("TUPLE")
            stack[first:] = [depth] * len(opcode.stack_after)
            yield depth, str(argument) if name == "GLOBAL" else ""
