"""Paths: of the workspace that a run works in, of the code that it runs, and of what all worktrees share.

A *workspace* holds the settings and what is made of them. The *code* is a checkout of this project: the workspace
itself or, for a workspace that `fewstep init` made, the folder to which its link `.fewstep/source` leads.
`Workspace.code` is the one place that knows which.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

from fewstep.util.errors import SettingsError
from fewstep.util.source_code import ROOT

CODE = ("fewstep", "tasks", "flows")
"""The folders of the code: what imports each other and is run."""
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+(/.*)?")


@dataclass(frozen=True)
class Workspace:
    """The folder that holds params.yaml and dvc.yaml. `root` is absolute."""

    root: Path

    @classmethod
    def find(cls, start: str | os.PathLike | None = None) -> Workspace:
        """The nearest workspace at or above `start` (default: the current folder). One without code of its own, such as
        a clone, is told of the code that runs.

        Raises SettingsError without one, or where Python could not be told where its code is.
        """
        start = Path(start or os.getcwd()).resolve()
        for folder in (start, *start.parents):
            if (folder / "params.yaml").is_file() and (folder / "dvc.yaml").is_file():
                require_importable(folder)
                workspace = cls(folder)
                workspace.use_code(ROOT, keep=True)
                return workspace
        raise SettingsError(f"no params.yaml with a dvc.yaml beside it in {start} or above",
                            hint="start fewstep in a workspace (`fewstep init DIR` makes one) or in a checkout of the "
                                 "project")

    @property
    def holds_code(self) -> bool:
        """Whether the workspace is itself a checkout of the project."""
        return all((self.root / name / "__init__.py").is_file() for name in CODE)

    @property
    def code(self) -> Path:
        """The checkout whose code runs here. Without one of its own, and no word of another, the code of this process.
        """
        if self.holds_code:
            return self.root
        return self.source.resolve() if self.source.is_dir() else ROOT

    @property
    def source(self) -> Path:
        """The link to the code that lies apart; by it DVC's files name the code alike on every host."""
        return self.local / "source"

    @property
    def code_below(self) -> str:
        """What leads from `root` to `code`: empty, or the link's path with a slash at its end."""
        return "" if self.holds_code else f"{self.source.relative_to(self.root).as_posix()}/"

    def use_code(self, code: Path, *, keep: bool = False) -> None:
        """Let a workspace without code of its own use that in the folder `code`; `keep`: unless it uses some already.

        Where the link cannot be written the workspace uses whatever code runs.
        """
        if self.holds_code or keep and self.source.is_dir():
            return
        with contextlib.suppress(OSError):
            self.local.mkdir(exist_ok=True)
            self.source.unlink(missing_ok=True)
            self.source.symlink_to(code)

    @property
    def params(self) -> Path:
        """The settings of the experiment."""
        return self.root / "params.yaml"

    @property
    def data(self) -> Path:
        """Published outputs, which DVC tracks."""
        return self.root / "data"

    @property
    def local(self) -> Path:
        """Files of this checkout alone: lock, work in progress."""
        return self.root / ".fewstep"

    @property
    def partial(self) -> Path:
        """Work in progress, one folder per key; on the file system of `data`, so that publishing is a rename."""
        return self.local / "partial"

    @cached_property
    def shared(self) -> Path:
        """Files that all worktrees of the repository share: the main checkout's .fewstep."""
        main = _main_checkout(self.root)
        return (main or self.root) / ".fewstep"

    @property
    def is_main(self) -> bool:
        """Whether this is the repository's first checkout, or outside git; False in a worktree."""
        return self.shared == self.local

    @property
    def published(self) -> Path:
        """One JSON file per key that was ever published and given to DVC's cache."""
        return self.shared / "published"

    @property
    def runs(self) -> Path:
        """Records of pipeline runs (tasks.tracking.run_records)."""
        return self.shared / "runs"

    @property
    def reference(self) -> Path:
        """Features of reference images, kept by content: computed again where they are missing."""
        return self.shared / "reference"

    @property
    def pages(self) -> Path:
        """Reports that `fewstep report` and `fewstep compare` wrote without `--out`."""
        return self.local / "reports"

    @property
    def mlflow_uri(self) -> str:
        """MLFLOW_TRACKING_URI when set, else one SQLite file shared by all worktrees."""
        return given_mlflow_uri() or sqlite_address(self.shared / "mlflow.db")

    @property
    def prefect_home(self) -> Path:
        """PREFECT_HOME when set, else a folder shared by all worktrees."""
        return Path(os.environ.get("PREFECT_HOME") or self.shared / "prefect")


def require_importable(folder: Path) -> None:
    """Raises SettingsError for a folder that PYTHONPATH cannot name: it is separated by colons, and knows no escape."""
    if os.pathsep in str(folder):
        raise SettingsError(f"{folder}: the path holds {os.pathsep!r}, which separates folders in PYTHONPATH: the "
                            "processes of a run would not find the code", hint="move or rename that folder")


def source_path(environment: Mapping[str, str], root: Path | None = None) -> str:
    """PYTHONPATH with which a child imports the project's code from `root` (default: the code this process runs).

    Raises SettingsError where PYTHONPATH cannot name that folder.
    """
    source = str(root or ROOT)
    require_importable(Path(source))
    return os.pathsep.join([source, *[part for part in environment.get("PYTHONPATH", "").split(os.pathsep)
                                      if part and part != source]])


def child_environment(environment: Mapping[str, str], **more: str) -> dict[str, str]:
    """`environment` for a child that imports the code this process runs, with `more` variables."""
    own = {**environment, "PYTHONPATH": source_path(environment), **more}
    own.pop("PYTHONSAFEPATH", None)     # with it Python would not look there
    return own


def given_mlflow_uri() -> str | None:
    """MLFLOW_TRACKING_URI. Raises SettingsError for a host without `http://`: MLflow takes it for a folder's name."""
    given = os.environ.get("MLFLOW_TRACKING_URI")
    if given and _HOST_AND_PORT.fullmatch(given):
        raise SettingsError(f"MLFLOW_TRACKING_URI: {given!r} is no address of a server",
                            hint=f"write it with its scheme, as http://{given}")
    return given


def sqlite_address(path: Path, driver: str = "pysqlite") -> str:
    """SQLAlchemy's address of a SQLite file, of whatever path.

    SQLAlchemy takes all up to a question mark as the path, as it is. A path with one is given in SQLite's own syntax,
    in which it is quoted, and with the driver's name: MLflow makes folders for what begins with `sqlite:///`.
    """
    if "?" in str(path):
        return f"sqlite+{driver}:///file:{quote(str(path))}?uri=true"
    return f"sqlite:///{path}" if driver == "pysqlite" else f"sqlite+{driver}:///{path}"


def _line(path: Path) -> str:
    """The path in one of git's own files: all up to the line's end, in whatever encoding names of files have."""
    return os.fsdecode(path.read_bytes().rstrip(b"\r\n"))


def _main_checkout(root: Path) -> Path | None:
    """The folder in the repository's first checkout that matches `root`; None outside git. Only reads files."""
    for folder in (root, *root.parents):
        mark = folder / ".git"
        if mark.is_dir():
            return root
        if mark.is_file():
            git_dir = Path(_line(mark).removeprefix("gitdir:").removeprefix(" "))
            git_dir = git_dir if git_dir.is_absolute() else (folder / git_dir).resolve()
            common = git_dir / "commondir"
            if not common.is_file():    # a submodule or --separate-git-dir: a checkout of its own
                return root
            git = (git_dir / _line(common)).resolve()
            return git.parent / root.relative_to(folder) if git.name == ".git" else root
    return None
