"""The Dockerfile by hadolint's rules and by ours; what it installs is what pyproject.toml says."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from packaging.utils import canonicalize_name

from tests.closure import ROOT

DOCKERFILE = ROOT / "infra/docker/Dockerfile"
BIN = Path(sys.executable).parent


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.MULTILINE).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_hadolint_has_nothing_to_say():
    done = subprocess.run([BIN / "hadolint", "--no-color", DOCKERFILE], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


def test_hadolint_would_say_something(tmp_path):
    wrong = tmp_path / "Dockerfile"
    wrong.write_text("FROM python\nRUN apt-get update && apt-get install git\nUSER root\n")
    done = subprocess.run([BIN / "hadolint", "--no-color", wrong], capture_output=True, text=True)
    assert {"DL3006", "DL3008", "DL3002"} <= set(re.findall(r"DL\d+", done.stdout))


def test_the_base_is_pinned_nobody_is_root_and_no_secret_is_built_in():
    found = instructions()
    images = [value for name, value in found if name == "FROM"]
    assert [image.split()[0] for image in images] == ["python:${PYTHON}"] * 2
    (base,) = (value for name, value in found if name == "ARG" and value.startswith("PYTHON="))
    assert re.fullmatch(r"PYTHON=3\.(11|12)\.\d+-slim-bookworm", base)
    assert [value for name, value in found if name == "USER"] == ["10001:10001"]
    set_here = " ".join(value for name, value in found if name in ("ARG", "ENV"))
    assert not re.search(r"SECRET|PASSWORD|TOKEN|_KEY|AUTH", set_here)
    (check,) = (value for name, value in found if name == "HEALTHCHECK")
    assert check.endswith('CMD ["fewstep", "doctor"]')
    ran = " ".join(value for name, value in found if name == "RUN")
    assert "rm -rf /var/lib/apt/lists/*" in ran and "--no-install-recommends" in ran and "git=" in ran


def test_nothing_that_was_made_here_gets_into_the_image():
    ignored = (ROOT / "infra/docker/Dockerfile.dockerignore").read_text().splitlines()
    assert {".venv", ".fewstep", ".dvc/config.local", ".env"} <= set(ignored) and ".git" not in ignored


def test_the_requirements_are_those_of_the_project_and_constraints_know_them():
    script = ROOT / "infra/docker/requirements.py"
    done = subprocess.run([sys.executable, script, "server", "otel", "kubernetes"], cwd=ROOT, capture_output=True,
                          text=True, check=True)  # fmt: skip
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert done.stdout.splitlines() == [*project["dependencies"], *extras["server"], *extras["otel"],
                                        *extras["kubernetes"]]  # fmt: skip
    known = set(re.findall(r"^([a-z0-9._-]+)==", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    assert {canonicalize_name(re.match(r"[\w.-]+", line)[0]) for line in done.stdout.splitlines()} <= known
