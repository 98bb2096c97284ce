"""What a deployment for other hosts may carry: what they could not have is refused, with the way out."""

import subprocess

import pytest

from fewstep.util.errors import SettingsError
from tasks.storage.cloneable import Cloneable, cloneable
from tasks.storage.workspace import Workspace
from tests.git_daemon import git_daemon
from tests.project import checkout_in

CONFIG = "['remote \"s\"']\n    url = s3://bucket/path\n[core]\n    remote = s\n"


def git(root, *arguments) -> str:
    identity = ("-c", "user.email=a@b", "-c", "user.name=a")
    done = subprocess.run(["git", *identity, *arguments], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def project(tmp_path):
    root = tmp_path / "project"
    (root / ".dvc").mkdir(parents=True)
    (root / ".dvc" / "config").write_text(CONFIG)
    checkout_in(root)
    (root / "code.py").write_text("x = 1\n")
    git(root, "init", "-q", "-b", "main")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "start")
    (tmp_path / "served" / "p.git").mkdir(parents=True)
    git(tmp_path / "served" / "p.git", "init", "-q", "--bare", "-b", "main")
    return root


def test_only_what_any_host_can_clone_is_deployed(project, tmp_path):
    workspace = Workspace(project)
    with git_daemon(tmp_path / "served") as url:
        git(project, "remote", "add", "origin", f"{url}/p.git")
        with pytest.raises(SettingsError, match="is on no remote"):
            cloneable(workspace)
        git(project, "push", "-q", "origin", "main")
        found = cloneable(workspace)
        assert found == Cloneable(f"{url}/p.git", git(project, "rev-parse", "HEAD"))
        git(tmp_path, "clone", "-q", found.repository, "clone")
        assert git(tmp_path / "clone", "rev-parse", "HEAD") == found.commit
    (project / "new.py").write_text("y = 2\n")
    with pytest.raises(SettingsError, match="uncommitted changes"):
        cloneable(workspace)
    (project / "new.py").unlink()
    for address, said in ((str(tmp_path / "served/p.git"), "a path of this host"), ("../p", "a path of this host"),
                          (f"file://{tmp_path}/served/p.git", "a path of this host"),
                          ("https://me:word@host/p.git", "holds a login"), ("https://token@host/p", "holds a login")):
        git(project, "remote", "set-url", "origin", address)
        with pytest.raises(SettingsError, match=said) as refused:
            cloneable(workspace)
        assert "word" not in str(refused.value) and "token" not in str(refused.value)
    for address in ("git@host:team/p.git", "ssh://git@host/p.git", "https://host/p.git"):
        git(project, "remote", "set-url", "origin", address)
        assert cloneable(workspace).repository == address


@pytest.mark.parametrize(("config", "said"), [
    ("", "no default remote"), (CONFIG.replace("s3://bucket", "/mnt"), "/mnt/path, a path, as default remote"),
])
def test_a_commit_whose_workers_could_share_nothing_is_refused(project, config, said):
    (project / ".dvc" / "config").write_text(config)
    git(project, "commit", "-q", "-a", "-m", "other store")
    git(project, "remote", "add", "origin", "https://host/p.git")
    git(project, "update-ref", "refs/remotes/origin/main", "HEAD")
    with pytest.raises(SettingsError, match=f"names {said}: workers elsewhere could share nothing"):
        cloneable(Workspace(project))


def test_code_that_lies_apart_is_cloned_from_its_own_repository(project, tmp_path):
    space = tmp_path / "space"
    (space / ".dvc").mkdir(parents=True)
    (space / ".dvc" / "config").write_text(CONFIG)
    (space / ".gitignore").write_text("/.fewstep/\n")
    workspace = Workspace(space)
    workspace.use_code(project)
    git(space, "init", "-q", "-b", "main")
    git(space, "add", "-A")
    git(space, "commit", "-q", "-m", "settings")
    (tmp_path / "served" / "s.git").mkdir()
    git(tmp_path / "served" / "s.git", "init", "-q", "--bare", "-b", "main")
    with git_daemon(tmp_path / "served") as url:
        git(space, "remote", "add", "origin", f"{url}/s.git")
        git(space, "push", "-q", "origin", "main")
        with pytest.raises(SettingsError, match=f"{git(project, 'rev-parse', 'HEAD')[:10]} is on no remote"):
            cloneable(workspace)
        git(project, "remote", "add", "origin", f"{url}/p.git")
        git(project, "push", "-q", "origin", "main")
        code = Cloneable(f"{url}/p.git", git(project, "rev-parse", "HEAD"))
        assert cloneable(workspace) == Cloneable(f"{url}/s.git", git(space, "rev-parse", "HEAD"), code)
        (project / "fewstep" / "new.py").touch()
        with pytest.raises(SettingsError, match=f"uncommitted changes in {project}"):
            cloneable(workspace)
