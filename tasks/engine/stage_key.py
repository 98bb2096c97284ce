"""What a stage's key is made of: code, resolved settings, seed, digests of the inputs. No torch here."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from fewstep.util.errors import SettingsError
from fewstep.util.hashing import sha256_file
from tasks.config.schema import Settings
from tasks.engine import graph
from tasks.engine.manifest import canonical
from tasks.storage.file_io import StatTable, list_files
from tasks.storage.workspace import Workspace

CODE_ROOT = Path(__file__).resolve().parents[2]


def code_files(stage: graph.Stage, root: Path = CODE_ROOT) -> list[str]:
    """The Python files of the stage's declared modules, relative to `root`, sorted. SettingsError if one is gone."""
    found: set[str] = set()
    for name in stage.modules:
        path = root / name
        if path.is_dir():
            found.update(file.relative_to(root).as_posix() for file in path.rglob("*.py"))
        elif path.is_file():
            found.add(name)
        else:
            raise SettingsError(f"the code of stage '{stage.name}' is incomplete: {path} does not exist")
    return sorted(found)


def code_hash(stage: graph.Stage, root: Path = CODE_ROOT) -> str:
    """SHA-256 over the names and bytes of `code_files`."""
    return hashlib.sha256(canonical([[name, sha256_file(root / name)] for name in code_files(stage, root)])).hexdigest()


def check_code(workspace: Workspace, stage: graph.Stage) -> None:
    """Refuse to run code that is not this checkout's: DVC would record the checkout's files as what was run."""
    if workspace.root == CODE_ROOT or not (workspace.root / stage.module_file).exists():
        return
    if code_hash(stage, workspace.root) != code_hash(stage):
        raise SettingsError(f"stage '{stage.name}': the code that would run, {CODE_ROOT}, differs from this checkout's",
                            hint=f"start it with PYTHONPATH={workspace.root}")


def root_of_code(workspace: Workspace, stage: graph.Stage) -> Path:
    """Where the stage's code lies: in the checkout, or (where that has only data and settings) where it runs from."""
    return workspace.root if (workspace.root / stage.module_file).exists() else CODE_ROOT


def resolved(stage: graph.Stage, settings: Settings, root: Path) -> dict:
    """The settings that enter the stage's key. Raises SettingsError (unknown recipe and the like).

    A recipe file's path is taken from `root`, the checkout, wherever the command was started.
    """
    recipe = graph.given(settings, root)["recipe"]
    if recipe is not None:
        settings = settings.model_copy(update={"distill": settings.distill.model_copy(update={"recipe": str(recipe)})})
    return stage.settings(settings)


def given_digests(stage: graph.Stage, settings: Settings, workspace: Workspace, table: StatTable) -> dict[str, str]:
    """Digests of what the stage reads from outside the pipeline. Raises SettingsError when it is not there."""
    paths = graph.given(settings, workspace.root)
    return {name: outside_digest(name, paths[name], table) for name in stage.given if paths[name] is not None}


def outside_digest(name: str, path: Path, table: StatTable) -> str:
    """SHA-256 over the files of a folder (names, sizes, hashes) or of one file."""
    if path.is_file():
        return table.sha256(path)
    hints = {"images": "bring your images in with `fewstep data add PATH`",
             "teacher": "teacher.source is 'train' or the folder of a saved diffusers pipeline",
             "recipe": "`fewstep recipes` lists the recipes that come with fewstep"}
    if not path.is_dir():
        raise SettingsError(f"{path}: no such file or folder", hint=hints.get(name))
    names = list_files(path)
    if not names:
        raise SettingsError(f"{path}: the folder is empty", hint=hints.get(name))
    rows = [[name, (path / name).stat().st_size, table.sha256(path / name)] for name in names]
    table.commit()
    return hashlib.sha256(canonical(rows)).hexdigest()


def key(stage: graph.Stage, code: str, settings: dict, seed: int, inputs: dict[str, str], given: dict[str, str]) -> str:
    """SHA-256 of all that determines the stage's output."""
    return hashlib.sha256(canonical({"stage": stage.name, "code": code, "settings": settings, "seed": seed,
                                     "inputs": inputs, "given": given})).hexdigest()


@cache
def this_code(name: str) -> str:
    """`code_hash` of the code this process runs, taken once, before the stage's modules are imported."""
    return code_hash(graph.stage(name))


def check_unchanged(stage: graph.Stage) -> None:
    """Refuse to go on with code that was edited since this process started: half of it is loaded already."""
    if code_hash(stage) != this_code(stage.name):
        raise SettingsError(f"stage '{stage.name}': its code was edited while this run was under way; not started",
                            hint="`fewstep resume` continues with the code as it is now")
