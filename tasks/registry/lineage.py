"""From a registered version down to the bytes it came from, every one hashed again; and the way back up.

    version → weights → student → trajectories → teacher → shards → raw data
            → evaluation → classifier, baselines
            → commit → params.yaml, dvc.lock, the code of every stage

A link is `verified`, `differs` (something is there and is not what was recorded) or `unavailable` (nothing here to
hash). Bytes come from the checkout, DVC's cache or its remote, whichever has them.
"""

import json
import re
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from fewstep.util.errors import DataDiffers, FewstepError, NotAvailable, SettingsError
from fewstep.util.hashing import sha256_file
from tasks.engine import graph, stage_key
from tasks.engine import manifest as manifests
from tasks.engine.manifest import Manifest
from tasks.engine.plan import stat_table
from tasks.registry.model_registry import Registry, Version
from tasks.storage import dvc_cache, git
from tasks.storage.file_io import package_file

VERIFIED, DIFFERS, UNAVAILABLE = "verified", "differs", "unavailable"
TITLES = {"distill": "student", "shard": "shards", "evaluate": "evaluation"}
_SHORTEST = 6  # hex digits of a hash that --uses accepts


@dataclass
class Link:
    """One thing the version came from. `where`: registry, workspace, cache, git or outside."""

    title: str
    digest: str
    state: str = VERIFIED
    where: str = ""
    detail: str = ""
    files: int = 0
    bytes: int = 0
    inputs: list["Link"] = field(default_factory=list)

    def walk(self) -> Iterator["Link"]:
        yield self
        for link in self.inputs:
            yield from link.walk()

    def to_dict(self) -> dict:
        return asdict(self)


def trace(registry: Registry, version: Version) -> Link:
    """The verified tree below `version`. What is wrong stands in the links; nothing is raised for it."""
    registry.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="lineage-", dir=registry.folder) as scratch:
        return _Trace(registry, version, Path(scratch)).root()


def state(link: Link) -> str:
    """The worst state in the tree: differs before unavailable before verified."""
    found = {one.state for one in link.walk()}
    return next(state for state in (DIFFERS, UNAVAILABLE, VERIFIED) if state in found)


def problems(link: Link) -> list[str]:
    """One line for each link that does not verify."""
    return [f"{one.title}: {one.detail or one.state}" for one in link.walk() if one.state != VERIFIED]


def uses(registry: Registry, text: str) -> list[dict]:
    """Versions that used something with this hash (or its first digits): a file, an output, a teacher, a commit.

    Each is {version, aliases, what}. Raises SettingsError for what cannot be the start of a hash.
    """
    wanted = text.lower()
    if not re.fullmatch(rf"[0-9a-f]{{{_SHORTEST},64}}", wanted):
        raise SettingsError(f"{text!r} is no hash: expected {_SHORTEST} to 64 hexadecimal digits")
    found = []
    for model in registry.models():
        for version in registry.versions(model):
            what = sorted(set(_uses(registry, version, wanted)))
            if what:
                found.append({"version": version.name, "aliases": list(version.aliases), "what": what})
    return found


def _uses(registry: Registry, version: Version, wanted: str) -> Iterator[str]:
    for tag in ("weights", "commit"):
        if version.tags.get(f"fewstep.{tag}", "").startswith(wanted):
            yield tag
    for name, digest in version.json("given").items():
        if digest.startswith(wanted):
            yield f"{name} from outside"
    for stage, entry in version.inputs.items():
        if entry["digest"].startswith(wanted) or entry["key"].startswith(wanted):
            yield _title(stage)
    with tempfile.TemporaryDirectory(prefix="uses-", dir=registry.folder) as scratch:
        folder = registry.snapshot(version, Path(scratch))
        for path in sorted((folder / "manifests").glob("*.json")):
            made = json.loads(path.read_bytes())
            for file in made["files"]:
                if file["sha256"].startswith(wanted):
                    yield f"{_title(path.stem)}: {file['path']}"
            for file, digest in made["summary"].get("raw", {}).items():
                if digest.startswith(wanted):
                    yield f"raw data: {file}"


def _title(stage: str) -> str:
    return TITLES.get(stage, stage)


class _Trace:
    def __init__(self, registry: Registry, version: Version, scratch: Path):
        self.registry, self.version, self.scratch = registry, version, scratch
        self.workspace, self.table = registry.workspace, stat_table(registry.workspace)
        self.done: dict[tuple[str, str], Link] = {}
        self.manifests: dict[str, Manifest] = {}

    def root(self) -> Link:
        link = Link(self.version.name, self.version.tags.get("fewstep.weights", ""), where="registry",
                    detail=", ".join(self.version.aliases))  # fmt: skip
        try:
            self.snapshot = self.registry.snapshot(self.version, self.scratch / "snapshot")
        except (DataDiffers, NotAvailable) as error:
            _mark(link, error)
            return link
        try:
            student, evaluation = (self.stage(name, self.version.inputs[name]) for name in ("distill", "evaluate"))
            link.inputs = [self.weights(student), evaluation, self.commit()]
        finally:
            self.table.close()
        return link

    def weights(self, student: Link) -> Link:
        """The registered copy, and that it is what the student's stage published."""
        link = Link("weights", self.version.tags.get("fewstep.weights", ""), where="registry", inputs=[student])
        try:
            folder = self.registry.pipeline(self.version)
            files = [path for path in folder.rglob("*") if path.is_file()]
            link.files, link.bytes = len(files), sum(path.stat().st_size for path in files)
            made = {file.sha256 for file in self.manifests["distill"].files} if "distill" in self.manifests else None
            strange = [path.name for path in files if made is not None and sha256_file(path) not in made]
            if strange:
                raise DataDiffers(f"{strange[0]} is registered but was not made by the student's stage")
        except (DataDiffers, NotAvailable) as error:
            _mark(link, error)
        return link

    def stage(self, name: str, recorded: dict) -> Link:
        """The output of a stage, by digest, and what its manifest says it was made from."""
        known = self.done.get((name, recorded["digest"]))
        if known is not None:  # shown in full once
            return Link(known.title, known.digest, known.state, known.where, known.detail, known.files, known.bytes)
        link = self.done[name, recorded["digest"]] = Link(_title(name), recorded["digest"])
        try:
            md5 = dvc_cache.locked_md5(self.snapshot / "dvc.lock", graph.stage(name).output)
            folder, link.where = dvc_cache.locate(self.workspace, name, recorded["digest"], md5, self.scratch,
                                                recorded["key"])
            manifest = manifests.load(folder)
            link.files, link.bytes = len(manifest.files), manifest.bytes
            differing = manifests.problems(folder, manifest, self.table, fresh=True)
            if differing:
                raise DataDiffers(_short(differing[0], folder))
            if manifest.key != recorded["key"]:
                raise DataDiffers(f"was made under the key {manifest.key[:12]}, recorded is {recorded['key'][:12]}")
        except (DataDiffers, NotAvailable) as error:
            _mark(link, error)
            manifest = self._recorded_manifest(name, recorded)
        if manifest is not None:
            self.manifests[name] = manifest
            link.inputs = [self.stage(other, entry) for other, entry in sorted(manifest.inputs.items())]
            link.inputs += [self.given(what, digest) for what, digest in sorted(manifest.given.items())]
            link.inputs += [_built_in(file, digest) for file, digest in manifest.summary.get("raw", {}).items()]
        return link

    def _recorded_manifest(self, name: str, recorded: dict) -> Manifest | None:
        """The registered copy of a stage's manifest: the walk goes on below an output that is not here."""
        path = self.snapshot / "manifests" / f"{name}.json"
        if not path.is_file():
            return None
        data = json.loads(path.read_bytes())
        manifest = Manifest(**{**data, "files": tuple(manifests.File(**file) for file in data["files"])})
        return manifest if manifest.digest == recorded["digest"] else None

    def given(self, name: str, digest: str) -> Link:
        """Raw images, a saved teacher or a recipe file: what lay outside the pipeline."""
        from tasks.config import params_file

        title = {"images": "raw data", "teacher": "given teacher", "recipe": "recipe file"}.get(name, name)
        link = Link(title, digest, where="outside")
        try:
            path = graph.given(params_file.load(self.snapshot / "params.yaml"), self.workspace.root)[name]
            found = stage_key.outside_digest(name, path, self.table) if path is not None and path.exists() else None
            if found != digest:
                inside = path is not None and path.is_relative_to(self.workspace.root)
                relative = path.relative_to(self.workspace.root).as_posix() if inside else str(path)
                md5 = dvc_cache.locked_md5(self.snapshot / "dvc.lock", relative, "deps")
                if md5 is None:
                    raise NotAvailable(f"{path} is not here, and dvc.lock does not name it")
                copy = dvc_cache.from_cache(self.workspace, md5, self.scratch / f"given-{name}")
                link.where = "cache"
                if stage_key.outside_digest(name, copy, self.table) != digest:
                    raise DataDiffers(f"what DVC keeps as {relative} is not what was recorded")
        except (DataDiffers, NotAvailable) as error:
            _mark(link, error)
        except SettingsError as error:
            link.state, link.detail = UNAVAILABLE, str(error)
        return link

    def commit(self) -> Link:
        """The git tag holds the registered params.yaml and dvc.lock, and its code is the code of every stage."""
        link = Link("commit", self.version.tags.get("fewstep.commit", ""), where="git")
        if not link.digest:
            link.state, link.detail = UNAVAILABLE, "it was made outside git"
            return link
        try:
            for name in git.SNAPSHOT:
                if git.read_at(self.workspace, self.version.git_tag, name) != (self.snapshot / name).read_bytes():
                    raise DataDiffers(f"{name} under the git tag {self.version.git_tag} is not the registered one")
            self._code(link)
        except (DataDiffers, NotAvailable) as error:
            _mark(link, error)
        return link

    def _code(self, link: Link) -> None:
        other = []
        root = self._code_at(link.digest)
        for name, entry in self.version.inputs.items():
            here = stage_key.this_code(name) if root is None else None
            try:
                declared = graph.stage(name)
                if "modules" in entry:  # as the code of that time declared them
                    declared = replace(declared, modules=tuple(entry["modules"]))
                found = here or stage_key.code_hash(declared, root)
            except SettingsError:
                found = None  # modules were renamed since: the declaration of today does not fit that commit
            if found != entry["code"]:
                other.append(name)
        if other:
            changed = ", ".join(other)
            if self.version.json("modified") is True:
                raise NotAvailable(f"{changed} ran with uncommitted changes; the diff lies with the run")
            raise NotAvailable(f"the code of {changed} at this commit cannot be matched from here")

    def _code_at(self, commit: str) -> Path | None:
        """The code as committed; None where the repository holds data and settings only."""
        names = git.git(self.workspace.root, "ls-tree", "--name-only", commit, check=False).splitlines()
        wanted = [name for name in ("fewstep", "tasks") if name in names]
        if len(wanted) < 2:
            return None
        target = self.scratch / "code"
        target.mkdir()
        archive = self.scratch / "code.tar"
        git.git(self.workspace.root, "archive", "--format=tar", "-o", str(archive), commit, "--", *wanted)
        import tarfile

        with tarfile.open(archive) as tar:
            tar.extractall(target, filter="data")
        return target


def _built_in(file: str, digest: str) -> Link:
    """Raw data that an installed package brings."""
    link = Link("raw data", digest, where=file, files=1)
    try:
        path = package_file(file)
        link.bytes = path.stat().st_size
        if sha256_file(path) != digest:
            raise DataDiffers("the installed package brings another file")
    except (DataDiffers, NotAvailable) as error:
        _mark(link, error)
    return link


def _mark(link: Link, error: FewstepError) -> None:
    link.state = DIFFERS if isinstance(error, DataDiffers) else UNAVAILABLE
    link.detail = str(error)


def _short(text: str, folder: Path) -> str:
    return text.replace(f"{folder}/", "")
