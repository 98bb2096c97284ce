"""Full verification of finished outputs: every byte is read. Finds what sizes and times cannot tell (rotted disks)."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from fewstep.util.config import unknown
from fewstep.util.errors import FewstepError, SettingsError
from tasks.config.params_file import load as load_settings
from tasks.engine import graph
from tasks.engine.manifest import NAME, load, problems
from tasks.engine.plan import plan, stat_table
from tasks.storage.workspace import Workspace


@dataclass(frozen=True)
class Result:
    """One output and what differs in it (nothing: verified)."""

    name: str
    folder: str
    files: int
    bytes: int
    problems: list[str]

    def to_dict(self) -> dict:
        return asdict(self)


def verify_outputs(workspace: Workspace, which: str | None = None) -> list[Result]:
    """Read every byte of the outputs (of stage or folder `which`, or of all) and compare with their manifests.

    What is learnt goes into the table of known hashes, so that the next run sees damage that left size and times as
    they were. Raises SettingsError for a name that is neither a stage nor a folder with a manifest.
    """
    table = stat_table(workspace)
    try:
        return [_verify(workspace, name, folder, table) for name, folder in _folders(workspace, which)]
    finally:
        table.close()


def _folders(workspace: Workspace, which: str | None) -> list[tuple[str, Path]]:
    stages = [(stage.name, workspace.root / stage.output) for stage in graph.STAGES]
    if which is None:
        return [(name, folder) for name, folder in stages if folder.exists()]
    if which in graph.BY_NAME:
        folder = workspace.root / graph.stage(which).output
        if not (folder / NAME).exists():
            raise SettingsError(f"stage '{which}' has no finished output here",
                                hint=f"`fewstep stage run {which}` makes it")
        return [(which, folder)]
    folder = Path(which)
    if (folder / NAME).is_file():
        return [(which, folder)]
    if folder.is_dir():
        raise SettingsError(f"{folder}: has no {NAME}, so it is not a finished output")
    raise SettingsError(unknown("stage or folder", which, tuple(graph.BY_NAME)))


def _verify(workspace: Workspace, name: str, folder: Path, table) -> Result:
    shown = str(folder.relative_to(workspace.root)) if folder.is_relative_to(workspace.root) else str(folder)
    try:
        manifest = load(folder)
    except FewstepError as error:
        return Result(name, shown, 0, 0, [str(error)])
    if manifest is None:
        return Result(name, shown, 0, 0, [f"{folder}: has no {NAME}"])
    return Result(name, shown, len(manifest.files), manifest.bytes, problems(folder, manifest, table, fresh=True))


def false_records(workspace: Workspace) -> list[str]:
    """What plain `dvc repro` recorded in dvc.lock that is not true, one line each."""
    return [item.false_record for item in plan(workspace, load_settings(workspace.params)) if item.false_record]
