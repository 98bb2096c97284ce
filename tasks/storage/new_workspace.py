"""A workspace of one's own: a folder with settings, dvc.yaml, git and DVC, apart from the code, over a shared cache."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from configobj import ConfigObj

from fewstep.util.errors import SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.source_code import ROOT
from tasks.config import params_file
from tasks.config.settings_source import source_of
from tasks.storage import git
from tasks.storage.code_state import CodeOrigin, sources
from tasks.storage.dvc import cache_users, dvc_config, dvc_yaml
from tasks.storage.workspace import Workspace, require_importable

GITIGNORE = """\
/.fewstep/
/data/*
!/data/README.md
!/data/*.dvc
!/data/.gitignore
/.dvc/config.local
/.dvc/tmp
/.dvc/cache
__pycache__/
"""
DVC_CONFIG = """\
[core]
    analytics = false
    check_update = false
    remote = local
[cache]
    type = "reflink,copy"
['remote "local"']
    url = ../.fewstep/remote
"""
DVCIGNORE = """\
# Compiled Python beside the code that the stages depend on.
__pycache__
*.pyc
"""


@dataclass(frozen=True)
class NewWorkspace:
    """What was made: the workspace, the file that its settings came from, the code it uses, DVC's cache, how many other
    workspaces share that, and the first commit."""

    workspace: Workspace
    settings_from: Path
    code: CodeOrigin
    cache: Path
    sharing: int
    commit: str


def default_cache() -> Path:
    """The DVC cache that workspaces share: $FEWSTEP_CACHE, else in the user's folder for caches."""
    given = os.environ.get("FEWSTEP_CACHE")
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(given).expanduser() if given else Path(caches) / "fewstep" / "dvc"


def make(folder: Path, settings: str | None = None, cache: Path | None = None) -> NewWorkspace:
    """Make a workspace in the new or empty folder `folder`; one with nothing but git's folder counts as empty.

    Args:
        folder: where.
        settings: as of `source_of`.
        cache: DVC's cache; None: `default_cache`.

    Raises:
        SettingsError: there is something in the folder; it lies in another workspace; settings that do not parse. Then
            nothing was made.
    """
    folder, source = Path(folder).expanduser().resolve(), source_of(settings)
    _require_free(folder)
    wanted, text = params_file.completed(source)
    cache = (cache or default_cache()).expanduser().resolve()
    cache.mkdir(parents=True, exist_ok=True)
    workspace = Workspace(folder)
    folder.mkdir(parents=True, exist_ok=True)
    workspace.use_code(ROOT)
    files = {"params.yaml": text, "dvc.yaml": dvc_yaml.render(wanted, workspace), ".gitignore": GITIGNORE,
             ".dvcignore": DVCIGNORE, ".dvc/config": DVC_CONFIG, ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n"}
    if (ROOT / "data" / "README.md").is_file():
        files["data/README.md"] = (ROOT / "data" / "README.md").read_bytes()
    for name, content in files.items():
        write_atomically(folder / name, content)
    _use_cache(workspace, cache)
    if not (folder / ".git").exists():
        git.git(folder, "init", "--quiet", "--initial-branch=main")
    git.git(folder, "add", "--", *files)
    git.git(folder, "commit", "--quiet", "-m", f"A workspace of fewstep, with the settings of {source.name}",
            env=git.IDENTITY)
    made_of = sources(workspace)
    return NewWorkspace(workspace, source, made_of.origin or CodeOrigin(), cache,
                        sum(1 for _ in cache_users.others(workspace)), made_of.workspace.commit or "")


def _use_cache(workspace: Workspace, cache: Path) -> None:
    config = ConfigObj(encoding="utf-8")
    config["cache"] = {"dir": str(cache)}
    path = dvc_config.local_config(workspace)
    config.filename = str(path)
    config.write()
    cache_users.join(workspace, cache)


def _require_free(folder: Path) -> None:
    require_importable(folder)
    for outer in folder.parents:
        if (outer / "params.yaml").is_file() and (outer / "dvc.yaml").is_file():
            raise SettingsError(f"{folder} lies in the workspace {outer}", hint="give a folder outside of it")
    if folder.exists() and not folder.is_dir():
        raise SettingsError(f"{folder} is a file", hint="give a new folder")
    there = [path.name for path in folder.iterdir() if path.name != ".git"] if folder.is_dir() else []
    if there:
        raise SettingsError(f"{folder} is not empty: it holds {sorted(there)[0]}",
                            hint="give a new folder, or an empty one")
