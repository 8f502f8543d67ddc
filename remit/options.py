"""Options that several commands share."""

import os
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["AppDir", "AsJson"]


def _use_app(folder: Path | None) -> None:
    if folder is not None:
        os.environ["REMIT_APP"] = str(folder.absolute())  # where `load` and the worker of `remit dev` find it


AppDir = Annotated[
    Path | None,
    typer.Option(
        "--app",
        callback=_use_app,
        help="A folder that adds agents, tools and bundles; `REMIT_APP` does the same.",
        metavar="DIR",
        show_default=False,
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
