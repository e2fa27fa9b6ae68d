"""``resurgsam2 render``: surgical-looking scenes with exact masks and sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resurgsam2_cli.commands import options as shared
from resurgsam2_cli.errors import UsageError


def render(
    out: Annotated[Path, typer.Argument(help="An .mp4 file for one scene, or a folder for a data set.")],
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of the first scene; training uses none below 1,000,000.")
    ] = 1000,
    count_scenes: Annotated[
        int, typer.Option("--count-scenes", "--scenes", min=1, help="How many scenes, with the seeds that follow.")
    ] = 1,
    count_frames: Annotated[
        int, typer.Option(min=1, help="Frames of each scene, at 25 per second; another length makes other movements.")
    ] = 200,
    height: Annotated[int, typer.Option(min=32, max=4096, help="In pixels.")] = 256,
    width: Annotated[int, typer.Option(min=32, max=4096, help="In pixels.")] = 320,
    absent: Annotated[bool, typer.Option(help="Add a sentence about something that is not in the scene.")] = True,
    overwrite: shared.Overwrite = False,
    quiet: shared.Quiet = False,
    as_json: shared.AsJson = False,
    verbose: shared.Verbose = False,
) -> None:
    """Render scenes: an MP4, or a data set in the layout of Ref-EndoVis, with exact masks and sentences.

    Examples

      resurgsam2 render scene.mp4 --seed 108

      resurgsam2 render scenes/ --count-scenes 10
    """
    import json

    from tqdm import tqdm

    from model.training.scenes import Scene
    from resurgsam2_cli.exports.target import check_suffix
    from resurgsam2_cli.training.scene_files import write_dataset, write_video

    if out.suffix.lower() == ".mp4":
        if count_scenes > 1:
            raise UsageError(f"{out}: one file holds one scene", "give a folder, or leave --count-scenes out")
        scene = Scene(seed, height=height, width=width, frames=count_frames)
        write_video(scene, out, overwrite=overwrite)
        things = {target.id: scene.sentences(target) or [target.category] for target in scene.targets}
        if as_json:
            typer.echo(json.dumps({"path": str(out.absolute()), "sentences": things}))
        elif not quiet:
            for ident, sentences in things.items():
                typer.echo(f"object {ident} answers to: {', '.join(sentences)}")
            typer.echo(str(out.absolute()))
        return
    if not out.exists():  # what is there is not replaced anyway
        check_suffix(out, "a scene", ".mp4")
    made = (Scene(i, height=height, width=width, frames=count_frames) for i in range(seed, seed + count_scenes))
    with tqdm(total=count_scenes, unit="scene", disable=quiet or as_json or None) as bar:
        write_dataset(made, out, absent=absent, overwrite=overwrite, watch=lambda _: bar.update() and None)
    if as_json:
        typer.echo(json.dumps({"path": str(out.absolute()), "scenes": count_scenes}))
    elif not quiet:
        typer.echo(str(out.absolute()))
