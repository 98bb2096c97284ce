"""The documents name files and modules that are there: a path that moved is found here, not by a reader."""

import re
import subprocess

import pytest

from tasks.engine.graph import STAGES
from tests.closure import ROOT

PROFILES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "infra/profiles").iterdir())
PAGES = sorted(path.relative_to(ROOT).as_posix() for folder in ("how-to", "concepts", "tutorials")
               for path in (ROOT / "docs" / folder).glob("*.md"))
DOCUMENTS = ["README.md", "CONTRIBUTING.md", "docs/index.md", "docs/quick-start.md", "docs/architecture.md",
             "docs/extractors.md", "docs/operate.md", "docs/observability.md", "docs/several-hosts.md",
             "infra/fewstep.service", *PAGES, *PROFILES]
EXAMPLES = {"fewstep/objectives/mean_matching/", "tasks/stages/count.py"}     # of CONTRIBUTING.md, made by its reader
EVENTS = ("promoted", "refused", "rolled", "pending", "rejected", "expired", "overtaken", "model", "version", "alias",
          "json", "service")  # fmt: skip
METRICS = re.findall(r"^\| `(fewstep\.[a-z.]+)` \|", (ROOT / "docs/observability.md").read_text(), re.MULTILINE)
LAYERS = ("", "tasks/", "fewstep/")      # a table of rooms leaves the layer out
PATH = re.compile(r"(?<![\w./~-])((?:fewstep|tasks|flows|tests|docs|infra|benchmarks|engine|util|registry|storage"
                  r"|training|trajectories|diffusion|metrics|evaluation)/[\w./-]*\w/?)")  # fmt: skip
MODULE = re.compile(r"(?<![\w./])((?:fewstep|tasks|flows)(?:\.[a-z_]+)+)")


def read(name: str) -> str:
    """A document without its blocks of code, patterns and addresses."""
    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"```.*?```|\S*<[a-z ]+>[\w./-]*|https?://\S+", "", text, flags=re.DOTALL)


def test_the_folder_of_every_stage_is_told_of_where_it_lies():
    told = re.findall(r"^\| `(\w+)/` \| (\w+) \|", (ROOT / "data" / "README.md").read_text(), re.MULTILINE)
    assert sorted(told) == sorted((stage.output.removeprefix("data/"), stage.name) for stage in STAGES)


@pytest.mark.parametrize("name", DOCUMENTS)
def test_paths_and_modules_that_a_document_names_exist(name):
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True,
                            check=True).stdout.split("\n")  # fmt: skip
    there = {"/".join(path.split("/")[:count]) for path in listed for count in range(1, path.count("/") + 2)}
    missing = [path for path in PATH.findall(read(name)) if path not in EXAMPLES
               and not any(layer + path.rstrip("/.") in there for layer in LAYERS)]  # fmt: skip
    for dotted in MODULE.findall(read(name)):
        parts = dotted.split(".")
        files = ["/".join(parts[:count]) for count in (len(parts), len(parts) - 1)]     # the last may be a name in it
        other = parts[1] in EVENTS or dotted in METRICS
        if not other and not any(file in there or f"{file}.py" in there for file in files):
            missing.append(dotted)
    assert missing == []


def test_what_moved_would_be_found():
    found = PATH.findall("see `fewstep/terms/base.py` and tasks/graph.py.")
    assert found == ["fewstep/terms/base.py", "tasks/graph.py"]
    assert MODULE.findall("`fewstep.surgery.lora`") == ["fewstep.surgery.lora"]
