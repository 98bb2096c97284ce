"""DVC, imported in this folder alone: what is recorded is what was read, so dvc.lock never says more than is true.

DVC writes parameters and inputs down as they are at the end of a stage. So the key is computed from what lies on disk
before and after DVC has hashed, and dvc.lock is written only if it is the key of the output both times. The bytes go to
DVC's cache in any case, under `published/<key>.json`: an output made before is put back instead of made again.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import tasks.tracking.process_env  # noqa: F401  (no telemetry)
from fewstep.util.errors import FewstepError, NotAvailable
from fewstep.util.files import disk_full, is_disk_full, mode_of, write_atomically, writing
from tasks.config import params_file
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.engine.manifest import Manifest
from tasks.engine.plan import compare, stat_table
from tasks.engine.stage_code import checked_out_code
from tasks.engine.stage_key import identify, resolve
from tasks.stages.base import Stage
from tasks.storage import published_outputs
from tasks.storage.code_state import commit_of
from tasks.storage.dvc import cache_users, dvc_config, dvc_lockfile
from tasks.storage.git import git
from tasks.storage.locks import held
from tasks.storage.workspace import Workspace
from tasks.tracking.redaction import redact

_ATTEMPTS = 20


@contextlib.contextmanager
def repository(workspace: Workspace) -> Iterator:
    """The DVC repository of the checkout. DVC's errors become FewstepError, those of an S3 remote NotAvailable; a full
    disk DiskFull."""
    from dvc.exceptions import DvcException  # loads DVC
    from dvc.repo import Repo

    _quiet()
    try:
        repo = Repo(str(workspace.root), config=_shared_remote(workspace))
        try:
            _mend_claims(repo)
            yield repo
        finally:
            repo.close()
    except FewstepError:
        raise
    except _s3_errors() as error:
        raise NotAvailable(f"the DVC remote failed: {redact(str(error))}",
                           hint="finished work is kept; run it again when the remote answers") from error
    except (DvcException, OSError) as error:
        if is_disk_full(error):
            raise disk_full(f"DVC's cache ({workspace.root})") from error
        dvc_lockfile.lock_entries(workspace)  # where that is what broke, it says so
        raise FewstepError(f"DVC: {' '.join(str(error).split())}", hint="`fewstep doctor` checks the set-up") from error


def _mend_claims(repo) -> None:
    """Removes DVC's file of claims on paths if it is broken: DVC would refuse to do anything.

    DVC writes it in place, under a lock of its own; who holds that lock and finds no JSON finds what a killed DVC left.
    """
    from dvc.lock import make_lock  # loads DVC
    from dvc.rwlock import RWLOCK_FILE, RWLOCK_LOCK

    path = Path(repo.tmp_dir, RWLOCK_FILE)
    if not _is_broken(path):
        return
    linked = repo.config["core"].get("hardlink_lock", False)
    with make_lock(os.path.join(repo.tmp_dir, RWLOCK_LOCK), tmp_dir=repo.tmp_dir, hardlink_lock=linked):
        if _is_broken(path):
            path.unlink()


def _is_broken(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return False
    except ValueError:
        return True
    return False


def _target(workspace: Workspace, stage: str) -> str:
    """The stage as DVC finds it from any current folder."""
    return f"{workspace.root / 'dvc.yaml'}:{stage}"


def _shared_remote(workspace: Workspace) -> dict | None:
    """In a worktree the local default remote is the main checkout's, not a folder that goes away with the worktree."""
    if workspace.is_main:
        return None
    remote = dvc_config.default_remote(workspace)
    if remote is None or "://" in remote.url:
        return None
    here = Path(os.path.normpath(workspace.root / ".dvc" / remote.url))
    if not here.is_relative_to(workspace.local):
        return None
    return {"remote": {remote.name: {"url": str(workspace.shared / here.relative_to(workspace.local))}}}


def _quiet() -> None:
    for name in ("dvc", "dvc_data", "dvc_objects"):
        logging.getLogger(name).setLevel(logging.ERROR)
    os.environ.setdefault("DVC_NO_ANALYTICS", "1")


@contextlib.contextmanager
def dvc_lock(repo) -> Iterator[None]:
    """DVC's own lock, waited for: `dvc status` and the like hold it for a moment."""
    from dvc.lock import LockError  # loads DVC

    for attempt in range(_ATTEMPTS):
        try:
            repo.lock.lock()
            break
        except LockError:
            if attempt == _ATTEMPTS - 1:
                raise
            time.sleep(0.25)
    try:
        yield
    finally:
        repo.lock.unlock()


def record(workspace: Workspace, name: str, manifest: Manifest) -> str | None:
    """Put the stage's published output into DVC's cache and, if it is still the truth, its record into dvc.lock.

    Returns None when dvc.lock now says what the manifest says, else the reason why it was left as it was. Raises
    SettingsError for a dvc.lock that is not in the form that DVC writes, and leaves it as it is.
    """
    stage = graph.stage(name)
    if not git(workspace.root, "rev-parse", "--git-dir", check=False):
        return _refusal(stage, f"{workspace.root} is not in a git repository, which DVC needs (`git init`)")
    dvc_lockfile.lock_entries(workspace)    # refused before anything is written: DVC takes more than what it writes
    # DVC's own lock is not waited for long, and a run may make two stages at once
    with held(workspace.local / "recording"), repository(workspace) as repo:
        before = disagreement(workspace, stage, manifest)
        cache_users.keep_joined(workspace)
        with dvc_lock(repo), cache_users.alone_in(workspace):
            (entry,) = repo.stage.collect(_target(workspace, name))
            entry.save_outs()
            entry.commit(relink=False)
            _remember_output(workspace, repo, stage, manifest, entry.outs[0])
            if before:
                return _refusal(stage, before)
            missing = [section for section in stage.params if section not in params_file.read(workspace.params)]
            if missing:
                return _refusal(stage, f"params.yaml has no section {' and '.join(map(repr, missing))}, "
                                       f"which dvc.yaml watches (an empty one, `{missing[0]}: {{}}`, will do)")
            entry.save_deps()
            entry.md5 = entry.compute_md5()
            after = disagreement(workspace, stage, manifest) or _other_params(workspace, stage, entry)
            if after:
                return _refusal(stage, after)
            _write_lock(repo, entry)
    _note_true(workspace, stage, manifest)
    return None


def _write_lock(repo, entry) -> None:
    """Puts the stage's record into dvc.lock, which is replaced whole: DVC itself empties the file before it writes."""
    from dvc.dvcfile import Lockfile  # loads DVC

    path = Path(repo.root_dir) / "dvc.lock"
    with tempfile.TemporaryDirectory() as scratch:
        changed = Path(scratch) / path.name
        if path.exists():
            shutil.copyfile(path, changed)
        Lockfile(repo, str(changed)).dump(entry)
        write_atomically(path, changed.read_bytes())


def _refusal(stage: Stage, why: str) -> str:
    return (f"the result of '{stage.name}' is kept with its true manifest, but not recorded in dvc.lock: {why}")


def _other_params(workspace: Workspace, stage: Stage, entry) -> str | None:
    params = params_file.read(workspace.params)
    for dependency in entry.deps:
        values = getattr(dependency, "params", None) and dependency.hash_info.value or {}
        if any(values.get(name) != params.get(name) for name in values):
            return "params.yaml was edited meanwhile"
    return None


def disagreement(workspace: Workspace, stage: Stage, manifest: Manifest) -> str | None:
    """Why what lies on disk now (params.yaml, code, inputs, output) is not what `manifest` says; None if it is."""
    table = stat_table(workspace)
    try:
        settings = params_file.load(workspace.params)
        digests = {name: manifests.verify(workspace.root / graph.stage(name).output, table).digest
                   for name in stage.inputs}
        code = checked_out_code(stage, resolve(stage, settings, workspace.root), workspace, table)
        identity = identify(stage, settings, workspace, digests, table, code)
        if identity.key_of(manifest) is None:
            differences, files = compare(manifest, identity)
            edited = differences + [f"code: {', '.join(files[:4])}"] * bool(files)
            return f"edited meanwhile: {', '.join(edited[:4])}"
        differing = manifests.problems(workspace.root / stage.output, manifest, table)
        return f"its output was changed meanwhile: {differing[0]}" if differing else None
    except FewstepError as error:
        return f"an input was changed meanwhile: {error}"
    finally:
        table.close()


def _remember_output(workspace: Workspace, repo, stage: Stage, manifest: Manifest, out) -> None:
    store = os.path.relpath(repo.cache.local.path, workspace.shared)
    published_outputs.write(workspace, published_outputs.PublishedOutput(
        stage=stage.name, key=manifest.key, digest=manifest.digest, md5=out.hash_info.value, store=store,
        commit=commit_of(workspace, manifest.code)))


def _note_true(workspace: Workspace, stage: Stage, manifest: Manifest) -> None:
    entry = dvc_lockfile.lock_entries(workspace)[stage.name]
    params = params_file.read(workspace.params)
    with contextlib.closing(stat_table(workspace)) as table:
        seen = dvc_lockfile.view(workspace, stage, params, manifest.given, table)
    dvc_lockfile.remember(workspace, stage, manifest.key, seen, entry)


def fetch(workspace: Workspace, hashes: list[str]) -> None:
    from dvc_data.hashfile.hash_info import HashInfo  # loads with DVC

    with repository(workspace) as repo:
        if not repo.config.get("core", {}).get("remote"):
            raise NotAvailable(f"DVC's cache lacks {len(hashes)} files, and there is no remote")
        repo.cloud.pull([HashInfo("md5", value) for value in hashes])


def has_remote(workspace: Workspace) -> bool:
    """Whether a default remote is configured."""
    with repository(workspace) as repo:
        return bool(repo.config.get("core", {}).get("remote"))


def push_output(workspace: Workspace, md5: str) -> bool:
    """Copy one output of DVC's cache, a folder with all its files, to the default remote; False without a remote.

    Raises FewstepError when a file did not arrive, NotAvailable when the remote does not answer.
    """
    from dvc_data.hashfile.hash_info import HashInfo  # loads with DVC

    with repository(workspace) as repo:
        if not repo.config.get("core", {}).get("remote"):
            return False
        with writing("the DVC remote"):
            remote = repo.cloud.get_remote_odb(None, "push")
            cache = repo.cache.local     # DVC's index of what the remote has is not asked: that may have been emptied
            sent = repo.cloud.transfer(cache, remote, [HashInfo("md5", md5)], cache_odb=cache, shallow=False)
        if sent.failed:
            raise FewstepError(f"{len(sent.failed)} of {len(sent.failed) + len(sent.transferred)} files did not reach "
                               "the DVC remote", hint="`fewstep doctor` checks the set-up")
        return True


def _s3_errors() -> tuple[type[Exception], ...]:
    """botocore's errors, which pass through DVC as they are; where it is not loaded it raised none."""
    exceptions = sys.modules.get("botocore.exceptions")
    return () if exceptions is None else (exceptions.BotoCoreError, exceptions.ClientError)


def push(workspace: Workspace) -> int:
    """Copy what dvc.lock names to the default remote; returns the number of files sent, 0 without a remote or git."""
    if not git(workspace.root, "rev-parse", "--git-dir", check=False):
        return 0
    with repository(workspace) as repo:
        if not repo.config.get("core", {}).get("remote"):
            return 0
        with writing("the DVC remote"):
            return repo.push()


def pull(workspace: Workspace, targets: list[str] | None = None, *, force: bool = False) -> None:
    """Bring `targets` (paths below the root; None: all that dvc.lock names) into place, from the cache or the remote.

    Raises NotAvailable naming what is in neither.
    """
    from dvc.exceptions import CheckoutError, FileTransferError  # loads DVC

    targets = [str(workspace.root / target) for target in targets] if targets is not None else None
    with repository(workspace) as repo:
        try:
            try:
                repo.checkout(targets=targets, force=force)
            except CheckoutError:
                if not repo.config.get("core", {}).get("remote"):
                    raise
                repo.pull(targets=targets, force=force)
        except (CheckoutError, FileTransferError) as error:
            raise NotAvailable(f"not in DVC's cache and not on its remote: {' '.join(str(error).split())}") from error


def share_cache(main: Workspace, worktree: Workspace) -> None:
    """Let a worktree use the main checkout's DVC cache and its local settings (written to its .dvc/config.local).

    Keys of the remote may stand there: the copy has the mode of the original, or is readable by its owner alone.
    """
    with repository(main) as repo:
        cache = Path(repo.cache.local.path).parent.parent      # …/files/md5
    original = dvc_config.local_config(main)
    config = dvc_config.read_config(original)
    config.setdefault("cache", {}).setdefault("dir", str(cache))
    written = io.BytesIO()
    config.write(written)
    mode = mode_of(original) if original.exists() else 0o600
    write_atomically(dvc_config.local_config(worktree), written.getvalue(), mode=mode)
