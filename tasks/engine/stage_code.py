"""The code that decides a stage's output: what the stage's module imports, and the terms that its recipe uses.

Found by the import closure (fewstep.util.source_code) and declared nowhere by hand. No torch here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from pathlib import Path

from fewstep.objectives.registry import term_modules
from fewstep.util import source_code
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import CorruptData, SettingsError
from fewstep.util.hashing import sha256_file
from fewstep.util.source_code import ROOT, VERSION, Code, Parsed, SourceTree, module_name, parse_file
from tasks.stages.base import S, Stage
from tasks.storage.file_io import StatTable
from tasks.storage.workspace import Workspace

_PARSED = "fewstep-parsed/1"
PACKAGES = ("fewstep", "tasks")
DECIDES = ("fewstep", "tasks/data", "tasks/evaluation", "tasks/stages")
"""Folders whose code may decide bytes: what DVC watches."""
MACHINERY = ("tasks/config/", "tasks/engine/", "tasks/registry/", "tasks/report/", "tasks/storage/", "tasks/tracking/")
"""Folders whose code decides whether, where and when a stage runs, or what is made of its output: never its bytes."""
APART = (*source_code.APART, *MACHINERY, "tasks/__init__.py", "tasks/stages/__init__.py", "tasks/stages/base.py")


def stage_code(stage: Stage[S, object], settings: S, tree: SourceTree) -> Code:
    """The files that decide the stage's output under these settings, with digests. SettingsError if one is gone."""
    module = type(stage).__module__
    if tree.path(module) is None:
        raise SettingsError(f"the code of stage '{stage.name}' is incomplete: {tree.root} has no module {module}")
    terms = [name for term in stage.terms(settings) for name in term_modules(term)]
    return tree.code([module, *terms], PACKAGES, APART)


def source_tree(root: Path, workspace: Workspace, table: StatTable) -> SourceTree:
    """The sources below `root` as they are now; what was parsed before is remembered in the workspace by content."""
    return SourceTree(root, RememberedParse(workspace.shared / "parsed.json", table))


@functools.cache
def running_tree(workspace: Workspace) -> SourceTree:
    """The sources of the code that this process runs, each as it was when it was first looked at."""
    with contextlib.closing(StatTable(workspace.shared / "stat.sqlite")) as table:
        tree = source_tree(ROOT, workspace, table)
        for module in _decisive_modules(ROOT):  # now: a file edited later must not be taken for what was loaded
            with contextlib.suppress(SettingsError):    # half-written, perhaps: said where a stage needs it
                tree.parsed(module)
        tree.parse.save()
    tree.parse = parse_file     # files that decide nothing, such as packages of machinery
    return tree


def running_code(stage: Stage[S, object], settings: S, workspace: Workspace) -> Code:
    """The code that this process runs for the stage, as it was when the process first looked."""
    return stage_code(stage, settings, running_tree(workspace))


def load(code: Code) -> None:
    """Import every module of a stage's code, so that an edit during the work changes nothing of it.

    The methods of a stage import when they are called, which may be hours later.
    """
    for path in code.files:
        importlib.import_module(module_name(path))


def checked_out_code(stage: Stage[S, object], settings: S, workspace: Workspace, table: StatTable) -> Code:
    """The stage's code on disk now, where the workspace has it."""
    return stage_code(stage, settings, source_tree(workspace.code, workspace, table))


def check_code(stage: Stage[S, object], settings: S, workspace: Workspace, table: StatTable) -> None:
    """Refuse to run other code than the workspace's, which DVC would record as what was run, or than was loaded."""
    running = running_code(stage, settings, workspace)
    if stage_code(stage, settings, source_tree(ROOT, workspace, table)) != running:
        raise SettingsError(f"stage '{stage.name}': its code was edited while this run was under way; not started",
                            hint="`fewstep resume` continues with the code as it is now")
    if checked_out_code(stage, settings, workspace, table) != running:
        raise SettingsError(f"stage '{stage.name}': the code that would run, {ROOT}, differs from this "
                            f"{'checkout' if workspace.holds_code else 'workspace'}'s, {workspace.code}",
                            hint=f"start it with PYTHONPATH={workspace.code}"
                            + ("" if workspace.holds_code else f" · or remove {workspace.source}: the next command of "
                               "fewstep lets this workspace use its own code"))


def changed_files(old: dict[str, str], new: dict[str, str]) -> list[str]:
    """Paths whose statements differ, that came or that went."""
    return sorted(path for path in {*old, *new} if old.get(path) != new.get(path))


def _decisive_modules(root: Path) -> list[str]:
    paths = (path for folder in DECIDES for path in (root / folder).rglob("*.py"))
    return sorted(path.relative_to(root).as_posix() for path in paths)


class RememberedParse:
    """`parse_file` that remembers its results by the content of the file, in a JSON file that all processes share.

    The file is a cache: what cannot be read or written is parsed again.
    """

    def __init__(self, path: Path, table: StatTable):
        self.path, self.table = path, table
        self._rules = [VERSION, sha256_file(Path(source_code.__file__))]
        self._known = self._load()
        self._new = False

    def __call__(self, path: Path, module: str) -> Parsed:
        key = f"{self.table.sha256(path)} {module}"
        if key not in self._known:
            self._known[key] = list(parse_file(path, module))
            self._new = True
        statements, imports, lazy = self._known[key]
        return Parsed(statements, tuple(imports), lazy)

    def save(self) -> None:
        """Write what was parsed anew."""
        self.table.commit()
        if self._new:
            with contextlib.suppress(OSError):
                write_checked(self.path, _PARSED, {"rules": self._rules, "files": self._known})
            self._new = False

    def _load(self) -> dict[str, list]:
        try:
            content = read_checked(self.path, _PARSED)
            return content["files"] if content["rules"] == self._rules else {}
        except (OSError, CorruptData):
            return {}
