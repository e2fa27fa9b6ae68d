"""Reading a finished run from Python, and segmenting with the names of the command's options."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from finished_runs import PROMPTS, finished_run

from resurgsam2_cli import build_engine, open_run, segment_video
from resurgsam2_cli.errors import InputError, UsageError
from resurgsam2_cli.video.positions import Part, Position


def test_what_a_run_holds(video: Path, tmp_path: Path) -> None:
    done = finished_run(tmp_path / "clip", video, Part(start=Position(frame=4), stride=2))
    with open_run(done.folder) as run:
        assert len(run) == len(done.numbers)
        assert [x.label for x in run.objects] == [x.label for x in PROMPTS]
        for position, frame in enumerate(run.frames()):
            assert (frame.number, frame.name) == (done.numbers[position], done.names[position])
            for k, x in enumerate(PROMPTS):
                for named in (k + 1, x.label, x.text):
                    assert np.array_equal(run.mask(frame.number, named), done.masks[position, k])
        assert run.mask(4, 2).dtype == bool
        assert not run.mask(4, 2).any()  # absent at first
        assert run.frame(6).states == next(x for x in run.frames() if x.number == 6).states
        assert run.to_coco() == json.loads((done.folder / "annotations.json").read_text())


def test_what_a_run_does_not_hold(video: Path, tmp_path: Path) -> None:
    same = (*PROMPTS[:2], type(PROMPTS[0])("other kidney", "kidney"))
    done = finished_run(tmp_path / "clip", video, Part(stride=2), prompts=same)
    with open_run(str(done.folder)) as run:
        for frame in (1, -1, 10**6, "2"):
            with pytest.raises(UsageError, match="has no frame") as error:
                run.mask(frame, 1)  # type: ignore[arg-type]
            assert error.value.hint == "it has 12 frames from 0 to 22"
        for named in (0, 4, "needle", ""):
            with pytest.raises(UsageError, match="has no object"):
                run.mask(0, named)
        with pytest.raises(UsageError, match="several objects 'kidney'"):
            run.mask(0, "kidney")
        assert np.array_equal(run.mask(0, "other kidney"), done.masks[0, 2])
    with pytest.raises(InputError, match="is not a finished run"):
        open_run(tmp_path / "nothing")


def test_options_by_their_names(video: Path, small_weights: Path, tmp_path: Path) -> None:
    engine = build_engine(str(small_weights), device="cpu", precision="fp32")
    done = segment_video(
        video,
        ["kidney"],
        tmp_path,
        engine=engine,
        start=3,
        end="0.5s",
        stride=2,
        overlay=False,
        window=3,
        threshold=0.5,
    )
    settings = done.record["settings"]
    assert {key: settings[key] for key in ("start", "end", "stride", "window", "threshold")} == {
        "start": "3",
        "end": "0.5s",
        "stride": 2,
        "window": 3,
        "threshold": 0.5,
    }
    assert "overlay" not in settings["outputs"]
    with open_run(done.folder) as run:
        assert [x.number for x in run.frames()] == [x for x in range(3, 24, 2) if Fraction(1001 * x, 30000) < 0.5]
    with pytest.raises(UsageError, match="no option 'strides'") as error:
        segment_video(video, ["kidney"], tmp_path / "other", engine=engine, strides=2)  # type: ignore[call-arg]
    assert "start" in error.value.hint
