"""Walks from a registered version down to the bytes it came from, hashing every byte again; and finds the versions that
used a hash.

    version → weights → student → trajectories → teacher → shards → raw data
            → evaluation → classifier, baselines
            → commit → params.yaml, dvc.lock, the code of every stage
            → code: its own commit, where it lies apart from the workspace

A link is `verified`, `differs` (other bytes than those recorded) or `unavailable` (no bytes here to hash). Bytes come
from the checkout, DVC's cache or its remote, whichever has them.
"""

from __future__ import annotations

import re
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fewstep.util.errors import DataDiffers, FewstepError, NotAvailable, SettingsError
from fewstep.util.hashing import sha256_file, sha256_json
from fewstep.util.source_code import ROOT, SourceTree
from tasks.config import params_file
from tasks.config.outside import outside_paths
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.manifest import Acceptance, Manifest
from tasks.engine.plan import stat_table
from tasks.engine.stage_code import source_tree
from tasks.engine.stage_key import outside_digest
from tasks.registry.model_registry import Registry, Version
from tasks.registry.version_tags import StageOutput
from tasks.storage import git
from tasks.storage.dvc import dvc_cache
from tasks.storage.file_io import package_file

VERIFIED, DIFFERS, UNAVAILABLE = "verified", "differs", "unavailable"
UNCOMMITTED = "uncommitted"
TITLES = {"distill": "student", "shard": "shards", "evaluate": "evaluation"}  # of stages named otherwise
GIVEN = {"images": "raw data", "teacher": "given teacher", "recipe": "recipe file"}
_SHORTEST = 6  # hex digits of a hash that --uses accepts


class UncommittedCode(NotAvailable):
    """The code of a stage is in no commit: the checkout had changes when the stage ran."""


@dataclass
class Link:
    """A node of the lineage: an output, a file or a commit that the version came from.

    Attributes:
        where: registry, workspace, cache, git or outside.
        detail: why it does not verify; of a version, its aliases.
        cause: UNCOMMITTED where code that was not committed is the reason; else empty.
        accepted: of an output, later code that was accepted as making the same: who, when, why, how it was compared.
    """

    title: str
    digest: str
    state: str = VERIFIED
    where: str = ""
    detail: str = ""
    files: int = 0
    bytes: int = 0
    inputs: list[Link] = field(default_factory=list)
    cause: str = ""
    accepted: list[str] = field(default_factory=list)

    def walk(self) -> Iterator[Link]:
        """This link and all below it."""
        yield self
        for link in self.inputs:
            yield from link.walk()

    def fail(self, error: FewstepError) -> None:
        """Marks the link as differing or unavailable, by the type of `error`."""
        self.state = DIFFERS if isinstance(error, DataDiffers) else UNAVAILABLE
        self.detail = str(error)
        self.cause = UNCOMMITTED if isinstance(error, UncommittedCode) else ""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def trace(registry: Registry, version: Version) -> Link:
    """The verified tree below `version`. Links that do not verify say so; nothing is raised for them."""
    registry.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lineage-", dir=registry.folder) as scratch:
        return _Trace(registry, version, Path(scratch)).root()


def state(link: Link) -> str:
    """The worst state in the tree: differs before unavailable before verified."""
    states = {below.state for below in link.walk()}
    return next(state for state in (DIFFERS, UNAVAILABLE, VERIFIED) if state in states)


def problems(link: Link) -> list[Link]:
    """The links that do not verify."""
    return [below for below in link.walk() if below.state != VERIFIED]


def uses(registry: Registry, text: str) -> list[dict[str, Any]]:
    """Versions that used a file, an output, a teacher or a commit with this hash (or its first digits).

    Each is {version, aliases, what}. Raises SettingsError for what cannot be the start of a hash.
    """
    wanted = text.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST},64}}", wanted):
        raise SettingsError(f"{text!r} is no hash: expected {_SHORTEST} to 64 hexadecimal digits")
    versions = (version for model in registry.models() for version in registry.versions(model))
    rows = [{"version": version.name, "aliases": list(version.aliases),
             "what": sorted(set(_uses(registry, version, wanted)))} for version in versions]  # fmt: skip
    return [row for row in rows if row["what"]]


def _uses(registry: Registry, version: Version, wanted: str) -> Iterator[str]:
    made_of = version.provenance
    if made_of.weights.startswith(wanted):
        yield "weights"
    if made_of.commit.startswith(wanted):
        yield "commit"
    if made_of.code is not None and made_of.code.commit.startswith(wanted):
        yield "code"
    for name, digest in made_of.given.items():
        if digest.startswith(wanted):
            yield f"{name} from outside"
    for stage, output in made_of.stages.items():
        if output.digest.startswith(wanted) or output.key.startswith(wanted):
            yield _title(stage)
    with tempfile.TemporaryDirectory(prefix="uses-", dir=registry.folder) as scratch:
        folder = registry.snapshot(version, Path(scratch))
        for path in sorted((folder / "manifests").glob("*.json")):
            manifest = manifests.read(path)
            for file in manifest.files:
                if file.sha256.startswith(wanted):
                    yield f"{_title(path.stem)}: {file.path}"
            for name, digest in manifest.summary.get("raw", {}).items():
                if digest.startswith(wanted):
                    yield f"raw data: {name}"


def told(acceptance: Acceptance) -> str:
    """An acceptance of code in a line."""
    how = "the same bits in a short run" if acceptance.compared else "not compared"
    return f"other code accepted by {acceptance.who} on {acceptance.when[:10]}: {acceptance.why} ({how})"


def acceptances(link: Link) -> list[str]:
    """Code that was accepted for outputs in the tree, a line each, in the order of the tree."""
    return [f"{below.title}: {line}" for below in link.walk() for line in below.accepted]


def _title(stage: str) -> str:
    return TITLES.get(stage, stage)


class _Trace:
    """One walk. `done` holds the links made so far by stage and digest, `manifests` those of the outputs met."""

    def __init__(self, registry: Registry, version: Version, scratch: Path):
        self.registry, self.version, self.scratch = registry, version, scratch
        self.workspace, self.table = registry.workspace, stat_table(registry.workspace)
        self.done: dict[tuple[str, str], Link] = {}
        self.manifests: dict[str, Manifest] = {}

    def root(self) -> Link:
        link = Link(self.version.name, "", where="registry", detail=", ".join(self.version.aliases))
        try:
            link.digest = self.version.provenance.weights
            self.snapshot = self.registry.snapshot(self.version, self.scratch / "snapshot")
        except (DataDiffers, NotAvailable) as error:
            link.fail(error)
            return link
        stages = self.version.provenance.stages
        try:
            student, evaluation = (self.stage(name, stages[name]) for name in ("distill", "evaluate"))
            link.inputs = [self.weights(student), evaluation, self.commit()]
            link.inputs += [self.code()] if self.version.provenance.code is not None else []
        finally:
            self.table.close()
        return link

    def weights(self, student: Link) -> Link:
        """The registered copy, and that it is what the student's stage published."""
        link = Link("weights", self.version.provenance.weights, where="registry", inputs=[student])
        try:
            folder = self.registry.pipeline(self.version)
            files = [path for path in folder.rglob("*") if path.is_file()]
            link.files, link.bytes = len(files), sum(path.stat().st_size for path in files)
            made = {file.sha256 for file in self.manifests["distill"].files} if "distill" in self.manifests else None
            strange = [path.name for path in files if made is not None and sha256_file(path) not in made]
            if strange:
                raise DataDiffers(f"{strange[0]} is registered but was not made by the student's stage")
        except (DataDiffers, NotAvailable) as error:
            link.fail(error)
        return link

    def stage(self, name: str, recorded: StageOutput) -> Link:
        """The output of a stage, and below it the inputs that its manifest names."""
        known = self.done.get((name, recorded.digest))
        if known is not None:  # shown in full once
            return Link(known.title, known.digest, known.state, known.where, known.detail, known.files, known.bytes)
        link = self.done[name, recorded.digest] = Link(_title(name), recorded.digest)
        try:
            md5 = dvc_cache.locked_md5(self.snapshot / "dvc.lock", graph.stage(name).output)
            folder, link.where = dvc_cache.locate(self.workspace, name, recorded.digest, md5, self.scratch,
                                                  recorded.key)  # fmt: skip
            manifest = manifests.load(folder)
            link.files, link.bytes = len(manifest.files), manifest.bytes
            differing = manifests.problems(folder, manifest, self.table, fresh=True)
            if differing:
                raise DataDiffers(_short(differing[0], folder))
            if manifest.key != recorded.key:
                raise DataDiffers(f"was made under the key {manifest.key[:12]}, recorded is {recorded.key[:12]}")
        except (DataDiffers, NotAvailable) as error:
            link.fail(error)
            manifest = self._recorded_manifest(name, recorded)
        if manifest is not None:
            self.manifests[name] = manifest
            link.accepted = [told(acceptance) for acceptance in manifest.accepted]
            link.inputs = [self.stage(other, StageOutput(code="", key=entry.key, digest=entry.digest))
                           for other, entry in sorted(manifest.inputs.items())]  # fmt: skip
            link.inputs += [self.given(kind, digest) for kind, digest in sorted(manifest.given.items())]
            link.inputs += [_built_in(file, digest) for file, digest in manifest.summary.get("raw", {}).items()]
        return link

    def _recorded_manifest(self, name: str, recorded: StageOutput) -> Manifest | None:
        """The registered copy of a stage's manifest: the walk goes on below an output that is not here."""
        path = self.snapshot / "manifests" / f"{name}.json"
        if not path.is_file():
            return None
        manifest = manifests.read(path)
        return manifest if manifest.digest == recorded.digest else None

    def given(self, kind: str, digest: str) -> Link:
        """Raw images, a saved teacher or a recipe file: what lay outside the pipeline."""
        link = Link(GIVEN.get(kind, kind), digest, where="outside")
        try:
            path = outside_paths(params_file.load(self.snapshot / "params.yaml"), self.workspace.root)[kind]
            present = path is not None and path.exists()
            if not present or outside_digest(kind, path, self.table) != digest:
                self._given_in_cache(kind, path, link)
        except (DataDiffers, NotAvailable, SettingsError) as error:
            link.fail(error)
        return link

    def _given_in_cache(self, kind: str, path: Path | None, link: Link) -> None:
        """Looks for the bytes of `link` in DVC's cache, which has them by the name in the registered dvc.lock."""
        inside = path is not None and path.is_relative_to(self.workspace.root)
        name = path.relative_to(self.workspace.root).as_posix() if inside else str(path)
        md5 = dvc_cache.locked_md5(self.snapshot / "dvc.lock", name, "deps")
        if md5 is None:
            raise NotAvailable(f"{path} is not here, and dvc.lock does not name it")
        copy = dvc_cache.from_cache(self.workspace, md5, self.scratch / f"given-{kind}")
        link.where = "cache"
        if outside_digest(kind, copy, self.table) != link.digest:
            raise DataDiffers(f"what DVC keeps as {name} is not what was recorded")

    def commit(self) -> Link:
        """The git tag holds the registered params.yaml and dvc.lock, and its code, unless that lies apart, is the code
        of every stage."""
        link = Link("commit", self.version.provenance.commit, where="git")
        try:
            if not link.digest:
                raise NotAvailable("it was made outside git")
            for name in git.SNAPSHOT:
                if git.read_at(self.workspace, self.version.git_tag, name) != (self.snapshot / name).read_bytes():
                    raise DataDiffers(f"{name} under the git tag {self.version.git_tag} is not the registered one")
            if self.version.provenance.code is None:
                self._check_code(self._code_at(self.workspace.root, link.digest), self.version.provenance.modified)
        except (DataDiffers, NotAvailable) as error:
            link.fail(error)
        return link

    def code(self) -> Link:
        """The commit of code that lies apart holds the code of every stage."""
        origin = self.version.provenance.code
        link = Link("code", origin.commit, where="git")
        try:
            if not origin.commit:
                raise NotAvailable("the code was outside git")
            root = self._code_at(self.workspace.code, origin.commit)
            if root is None:
                raise NotAvailable(f"the code in {self.workspace.code} knows no such commit")
            self._check_code(root, origin.modified)
        except (DataDiffers, NotAvailable) as error:
            link.fail(error)
        return link

    def _check_code(self, root: Path | None, modified: bool) -> None:
        """Raises NotAvailable naming the stages whose recorded code is not the code below `root`; `modified`: it is
        known to have differed from its commit."""
        made_of = self.version.provenance
        changed = ", ".join(name for name, output in made_of.stages.items() if not self._is_code(name, output, root))
        if changed and modified:
            raise UncommittedCode(f"{changed} ran with uncommitted changes; the diff lies with the run")
        if changed:
            raise NotAvailable(f"the code of {changed} at this commit cannot be matched from here")

    def _is_code(self, name: str, output: StageOutput, root: Path | None) -> bool:
        """Whether the code below `root` (None: that which runs now) made a stage's output, file by file."""
        if output.modules is not None:
            return root is not None and bytes_digest(output.modules, root) == output.code
        manifest = self._recorded_manifest(name, output)
        if manifest is None or manifest.code != output.code:
            return False
        tree = source_tree(root or ROOT, self.workspace, self.table)
        codes = [manifest.code_files, *(acceptance.files for acceptance in manifest.accepted)]
        return any(_holds(tree, files) for files in codes)

    def _code_at(self, place: Path, commit: str) -> Path | None:
        """The code as committed in the repository at `place`; None where that holds no code, or not this commit."""
        names = git.git(place, "ls-tree", "--name-only", commit, check=False).splitlines()
        wanted = [name for name in ("fewstep", "tasks") if name in names]
        if len(wanted) < 2:
            return None
        target = self.scratch / "code"
        target.mkdir()
        archive = self.scratch / "code.tar"
        git.git(place, "archive", "--format=tar", "-o", str(archive), commit, "--", *wanted)
        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        return target


def _holds(tree: SourceTree, files: dict[str, str]) -> bool:
    """Whether every one of `files` says in `tree` what its digest is of."""
    try:
        return {path: tree.parsed(path).statements for path in files} == files
    except (OSError, SettingsError):
        return False


def bytes_digest(modules: tuple[str, ...], root: Path) -> str:
    """SHA-256 over names and bytes of the Python files of modules below `root`: what identified code before version 2
    of the manifest."""
    files = {path for name in modules
             for path in ((root / name).rglob("*.py") if (root / name).is_dir() else [root / name])}  # fmt: skip
    rows = sorted([path.relative_to(root).as_posix(), sha256_file(path)] for path in files if path.is_file())
    return sha256_json(rows)


def _built_in(file: str, digest: str) -> Link:
    """Raw data that an installed package brings."""
    link = Link("raw data", digest, where=file, files=1)
    try:
        path = package_file(file)
        link.bytes = path.stat().st_size
        if sha256_file(path) != digest:
            raise DataDiffers("the installed package brings another file")
    except (DataDiffers, NotAvailable) as error:
        link.fail(error)
    return link


def _short(text: str, folder: Path) -> str:
    return text.replace(f"{folder}/", "")
