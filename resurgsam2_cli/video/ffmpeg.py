"""The one place that knows how ffmpeg is called."""

from __future__ import annotations

import re
import subprocess
from functools import lru_cache
from pathlib import Path

import imageio_ffmpeg

from resurgsam2_cli.errors import InputError


@lru_cache(maxsize=1)
def executable() -> str:
    """The ffmpeg that imageio-ffmpeg brings (or that ``IMAGEIO_FFMPEG_EXE`` names)."""
    hint = "pip install imageio-ffmpeg, or set IMAGEIO_FFMPEG_EXE to one that works"
    try:
        path = str(imageio_ffmpeg.get_ffmpeg_exe())
        first = subprocess.run([path, "-version"], capture_output=True, text=True, check=True).stdout
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise InputError(f"no ffmpeg that runs was found ({error})", hint) from error
    if not first.startswith("ffmpeg version"):
        raise InputError(f"{path}: is not ffmpeg", hint)
    return path


def version() -> str:
    """The first line of ``ffmpeg -version``."""
    out = subprocess.run([executable(), "-version"], capture_output=True, text=True, check=True).stdout
    return out.splitlines()[0]


def decodes_sound(path: Path) -> bool:
    """Whether the start of a file's first sound track can be decoded."""
    command = [executable(), *BASE, "-nostdin", *LOCAL_ONLY, "-i", local(path), "-map", "0:a:0", "-t", "0.2"]
    try:
        done = subprocess.run([*command, "-f", "null", "-"], capture_output=True, check=False, timeout=_PATIENCE)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


def local(path: Path) -> str:
    """A file name as ffmpeg takes it literally: never an option, a pattern or a protocol."""
    return f"file:{path}"


_PATIENCE = 30  # seconds


BASE = ("-hide_banner", "-nostats", "-loglevel", "level+error")
"""Options of every call. Each line of the log carries its level."""

LOCAL_ONLY = ("-protocol_whitelist", "file,pipe")
"""Options of every input: a playlist must not make ffmpeg open the network."""


def clean(line: str) -> str:
    """A line of the log without ffmpeg's addresses, levels and our ``file:`` prefix."""
    return re.sub(r"\[(?:[^\]]* @ 0x[0-9a-f]+|error|fatal|warning|info)\]\s*", "", line).replace("file:", "").strip()
