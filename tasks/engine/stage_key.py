"""What a stage's output is identified by: code, resolved settings, seed, digests of the inputs. No torch here."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from fewstep.teachers.inspection import DENOISERS
from fewstep.util.config import Strict
from fewstep.util.errors import SettingsError
from fewstep.util.hashing import sha256_json
from fewstep.util.source_code import Code
from tasks.config.outside import outside_paths, with_recipe_below
from tasks.config.schema import Settings
from tasks.engine.manifest import Manifest
from tasks.engine.stage_code import running_code
from tasks.stages.base import Stage
from tasks.storage.file_io import StatTable, list_given
from tasks.storage.workspace import Workspace

_HINTS = {"images": "bring your images in with `fewstep data add PATH`",
          "prompts": "data.prompts is a .txt with one prompt a line, or a table with a column prompt",
          "teacher": "teacher.source is 'train' or the folder of a saved diffusers pipeline",
          "encoders": "teacher.source is 'train' or the folder of a saved diffusers pipeline",
          "recipe": "`fewstep recipes` lists the recipes that come with fewstep"}  # fmt: skip


@dataclass(frozen=True)
class Identity:
    """All that determines the bytes of a stage's output.

    Attributes:
        stage: name.
        code: the files that decide the output.
        settings: the stage's resolved settings, as JSON data.
        seed: of the experiment.
        inputs: digests of earlier stages' outputs, by stage.
        given: digests of what comes from outside the pipeline, by name.
    """

    stage: str
    code: Code
    settings: dict
    seed: int
    inputs: dict[str, str]
    given: dict[str, str]

    @property
    def key(self) -> str:
        """SHA-256 of all of it."""
        return self._key(self.code.digest)

    def key_of(self, manifest: Manifest | None) -> str | None:
        """The key under which `manifest` records this very output; None where it records another one.

        Code that was accepted as equal to the code that made the output stands for it.
        """
        if manifest is None or not manifest.made_by(self.code.digest) or manifest.key != self._key(manifest.code):
            return None
        return manifest.key

    def _key(self, code: str) -> str:
        content = dataclasses.asdict(self) | {"code": code}
        return sha256_json(content)


def identify(stage: Stage, settings: Settings, workspace: Workspace, inputs: dict[str, str],
             table: StatTable, code: Code | None = None) -> Identity:
    """The identity of the stage's output under `settings`, given the digests of its inputs.

    `code`: default is the code that this process runs. Raises SettingsError for an outside input that is not there.
    """
    resolved = resolve(stage, settings, workspace.root)
    return Identity(stage.name, code or running_code(stage, resolved, workspace), resolved.model_dump(mode="json"),
                    settings.seed, {name: inputs[name] for name in stage.inputs},
                    outside_digests(stage, settings, workspace, table))


def resolve(stage: Stage, settings: Settings, root: Path) -> Strict:
    """The stage's own settings. Raises SettingsError (unknown recipe and the like)."""
    return stage.resolve(with_recipe_below(settings, root))


def outside_digests(stage: Stage, settings: Settings, workspace: Workspace, table: StatTable) -> dict[str, str]:
    """Digests of what the stage reads from outside the pipeline. Raises SettingsError when it is not there."""
    paths = outside_paths(settings, workspace.root)
    return {name: outside_digest(name, paths[name], table) for name in stage.outside if paths[name] is not None}


def _of_denoiser(file: str) -> bool:
    """Whether a file of a pipeline's folder holds weights of its denoiser, by which no condition changes."""
    part, _, rest = file.partition("/")
    return part in DENOISERS and rest != "config.json"


def outside_digest(name: str, path: Path, table: StatTable) -> str:
    """SHA-256 over the files of a folder (names, sizes, hashes) or of one file."""
    if path.is_file():
        return table.sha256(path)
    if not path.is_dir():
        raise SettingsError(f"{path}: no such file or folder", hint=_HINTS[name])
    names = [file for file in list_given(path) if name != "encoders" or not _of_denoiser(file)]
    if not names:
        raise SettingsError(f"{path}: the folder is empty", hint=_HINTS[name])
    rows = [[name, (path / name).stat().st_size, table.sha256(path / name)] for name in names]
    table.commit()
    return sha256_json(rows)
