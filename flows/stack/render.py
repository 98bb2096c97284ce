"""`fewstep stack render`: templates of infra/ filled from params.yaml and the commit, written to a folder.

Values stand between `[[` and `]]`, as braces are those of Prefect, Docker and the shell. Every value is a validated
setting, so none can end the text that it stands in. No secret is read: files name secrets, and who starts the stack
gives them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import infra
from fewstep.util.errors import SettingsError
from fewstep.util.files import write_atomically
from tasks.config.schema import Settings
from tasks.storage.code_state import code_state
from tasks.storage.workspace import Workspace

FOLDER = Path(infra.__file__).parent
KINDS = {"compose": "compose", "kubernetes": "kubernetes", "slurm": "slurm", "terraform": "terraform/aws"}
"""What can be rendered, and the folder below infra/ that it is made of."""
TEMPLATE = ".j2"
POSTGRES, S3 = "postgres:17.7-bookworm", "chrislusf/seaweedfs:4.48"
_SERVERS = (("prefect", 4200), ("mlflow", 5000), ("postgres", 5432), ("s3", 8333))
_RENAMED = {"env.example": ".env.example"}
_OWN = ("stack.tftest.hcl",)    # of the project: it tests what is rendered
_TAG = 12


@dataclass(frozen=True)
class Rendered:
    """What was written.

    Attributes:
        files: paths below the folder.
        image: with its tag.
        modified: whether the checkout has changes that the commit, and so the image, does not have.
    """

    files: list[str]
    image: str
    modified: bool


def render(workspace: Workspace, settings: Settings, kind: str, to: Path) -> Rendered:
    """Write the files of `kind` to the folder `to`; files of other names in it are left alone.

    Raises SettingsError for an unknown kind and for a checkout without a commit, whose image could not be named.
    """
    if kind not in KINDS:
        raise SettingsError(f"unknown kind {kind!r}", hint=f"one of: {', '.join(KINDS)}")
    code = code_state(workspace)
    if code.commit is None:
        raise SettingsError("no git repository with a commit: the image's tag is one",
                            hint="git init && git add -A && git commit -m start")
    image = f"{settings.stack.image}:{code.commit[:_TAG]}"
    files = []
    for name, text in rendered(settings, kind, image):
        write_atomically(to / name, text)
        files.append(name)
    return Rendered(files, image, code.modified)


def rendered(settings: Settings, kind: str, image: str) -> Iterator[tuple[str, str]]:
    """The files of a kind: path and text."""
    import jinja2  # a tenth of a second

    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, keep_trailing_newline=True, autoescape=False,
        variable_start_string="[[", variable_end_string="]]", block_start_string="<%", block_end_string="%>",
        comment_start_string="<#", comment_end_string="#>")  # fmt: skip
    values = {"stack": settings.stack, "name": settings.name, "image": image, "postgres_image": POSTGRES,
              "s3_image": S3, "servers": _SERVERS}  # fmt: skip
    folder = FOLDER / KINDS[kind]
    for path in sorted(folder.rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)     # what Terraform keeps here
        if hidden or not path.is_file() or path.name in _OWN:
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == TEMPLATE:
            path, text = path.with_suffix(""), environment.from_string(text).render(values)
        yield path.with_name(_RENAMED.get(path.name, path.name)).relative_to(folder).as_posix(), text
