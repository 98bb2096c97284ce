"""`fewstep stack`: the files that start servers and workers elsewhere, and the bucket that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.output import emit, examples, say
from flows.stack.render import KINDS, render
from tasks.config import params_file
from tasks.storage.workspace import Workspace

NEXT = {
    "compose": "cp .env.example .env, fill it in, docker compose up -d",
    "kubernetes": "kubectl apply -k overlays/self-hosted (or overlays/aws)",
    "slurm": "sbatch run.sbatch",
    "terraform": "terraform init && terraform plan",
}


def add(app: typer.Typer) -> None:
    """Adds the commands to `app`."""
    stack = typer.Typer(help="Files for Docker Compose, Kubernetes, Slurm and AWS, filled in from params.yaml.",
                        no_args_is_help=True, rich_markup_mode="rich")

    @stack.command("render", epilog=examples("fewstep stack render compose",
                                             "fewstep stack render kubernetes --to k8s"))
    def stack_render(
        kind: str = typer.Argument(help=f"One of: {', '.join(KINDS)}."),
        to: Annotated[Path | None, typer.Option(metavar="DIR", help="Where to; default: build/stack/KIND.")] = None,
        as_json: bool = typer.Option(False, "--json", help="Print what was written as JSON."),
    ) -> None:
        """Write the files of a kind of stack: addresses, image, bucket and resources, and no secret."""
        workspace = Workspace.find()
        folder = to or workspace.root / "build" / "stack" / kind
        made = render(workspace, params_file.load(workspace.params), kind, folder)
        changed = "uncommitted changes are not in the commit that the image is named by"

        def show(out) -> None:
            for name in made.files:
                say(out, str(folder / name))
            say(out, f"image: {made.image}   (`docker build -f infra/docker/Dockerfile -t {made.image} .`)")
            if made.modified:
                say(out, f"warning: {changed}")
            say(out, f"next, in {folder}: {NEXT[kind]}   (docs/operate.md)")

        emit({"kind": kind, "folder": str(folder), "files": made.files, "image": made.image,
              "warnings": [changed] if made.modified else []}, as_json, show)

    @stack.command("bucket", epilog=examples("fewstep stack bucket fewstep"))
    def stack_bucket(
        name: str = typer.Argument(help="Name of the bucket."),
        as_json: bool = typer.Option(False, "--json", help="Print the answer as JSON."),
    ) -> None:
        """Make a bucket in the S3 store of the environment, where it is not there, and try what runs will do."""
        from tasks.storage.object_store import Store  # boto3
        from tasks.storage.storage_check import in_words, try_store

        store = Store(f"s3://{name}")
        with in_words(f"s3://{name}", "make a bucket for"):
            made = store.make_bucket()
        try_store(store)
        emit({"bucket": name, "made": made}, as_json,
             lambda out: say(out, f"s3://{name} {'was made' if made else 'is there'}, and takes what runs will do"))

    app.add_typer(stack, name="stack")
