"""`fewstep sample`: images, videos or sound from a registered model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.output import emit, examples
from tasks.storage.workspace import Workspace

Prompts = Annotated[list[str] | None, typer.Option("--prompt", help="What to draw, of a model of texts; may be given "
                                                                    "several times: they are taken in turn.")]
Images = Annotated[list[Path] | None, typer.Option("--image", help="What to begin from, of a model that is given "
                                                                   "images; several are taken in turn.")]
Masks = Annotated[list[Path] | None, typer.Option("--mask", help="Of the image: white where it is to be made anew.")]


def add(app: typer.Typer) -> None:
    """Adds the command to `app`."""

    @app.command("sample", epilog=examples("fewstep sample digits@champion", "fewstep sample digits --n 100 --steps 2",
                                           "fewstep sample digits/3 --class 7 --seed 5 --out sevens.png",
                                           'fewstep sample emoji --prompt "a red apple" --n 4 --seed 7',
                                           'fewstep sample fill --prompt "a cat" --image in.png --mask hole.png'))
    def sample(model: str = typer.Argument(..., metavar="MODEL@ALIAS",
                                           help="NAME (its champion), NAME@ALIAS or NAME/VERSION."),
               n: int = typer.Option(64, "--n", min=1, max=10_000, help="Number of samples."),
               steps: int = typer.Option(None, "--steps", min=1, max=1000,
                                         help="Sampling steps; as trained if left out."),
               label: int = typer.Option(None, "--class", min=0, help="Only this class; all in turn if left out."),
               prompt: Prompts = None,
               image: Images = None,
               mask: Masks = None,
               size: str = typer.Option(None, "--size", metavar="WIDTHxHEIGHT",
                                        help="Of the samples, of a model of several sizes; the first if left out."),
               seed: int = typer.Option(0, "--seed", min=0, help="Of the noise."),
               out: str = typer.Option("samples.png", "--out",
                                       help="The file to write: .png, of videos also .gif, of sound .wav."),
               as_json: bool = typer.Option(False, "--json", help="Print the result as JSON.")) -> None:
        """Draw samples from a registered model, its bytes verified first, into one file."""
        from tasks.registry.model_registry import Registry  # MLflow takes seconds to load
        from tasks.registry.packaged.sample_pictures import draw

        registry = Registry(Workspace.find())
        version = registry.resolve(model)
        used = draw(registry, version, Path(out), count=n, steps=steps, label=label, prompts=prompt or (),
                    images=image or (), masks=mask or (), size=size, seed=seed)
        result = {"version": version.name, "out": out, "samples": n, "steps": used, "seed": seed}
        emit(result, as_json, lambda console: console.print(
            f"{n} samples of {version.name} with {used} step{'s' * (used > 1)} → {out}", markup=False, soft_wrap=True))
