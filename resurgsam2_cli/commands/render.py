"""``resurgsam2 render``: surgical-looking scenes with exact masks and sentences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from resurgsam2_cli.errors import OutputError, UsageError


def render(
    out: Annotated[Path, typer.Argument(help="An .mp4 file for one scene, or a folder for a data set.")],
    seed: Annotated[int, typer.Option(min=0, help="Of the first scene; training uses none below 1,000,000.")] = 1000,
    scenes: Annotated[int, typer.Option(min=1, help="How many, with the seeds that follow.")] = 1,
    frames: Annotated[int, typer.Option(min=1, help="Of each scene, at 25 a second.")] = 200,
    height: Annotated[int, typer.Option(min=32, help="In pixels.")] = 256,
    width: Annotated[int, typer.Option(min=32, help="In pixels.")] = 320,
    absent: Annotated[bool, typer.Option(help="Add an expression for something that is not there.")] = True,
) -> None:
    """Render scenes: an MP4, or a data set in the layout of Ref-EndoVis, with exact masks and sentences.

    [bold]Examples[/bold]

      resurgsam2 render scene.mp4 --seed 108

      resurgsam2 render scenes/ --scenes 10
    """
    from tqdm import tqdm

    from model.training.scenes import Scene
    from resurgsam2_cli.rendering import write_dataset, write_video

    if out.suffix.lower() == ".mp4":
        if scenes > 1:
            raise UsageError(f"{out}: one file holds one scene", "give a folder, or leave --scenes out")
        scene = Scene(seed, height=height, width=width, frames=frames)
        write_video(scene, out)
        for target in scene.targets:
            typer.echo(f"{target.id}: {' or '.join(scene.sentences(target)) or target.category}")
        return
    if out.exists() and any(out.iterdir()):
        raise OutputError(f"{out}: is not empty", "give a new folder")
    made = (Scene(i, height=height, width=width, frames=frames) for i in range(seed, seed + scenes))
    with tqdm(total=scenes, unit="scene", disable=None) as bar:
        write_dataset(made, out, absent=absent, watch=lambda _: bar.update() and None)
    typer.echo(str(out.absolute()))
