"""Processes of people who have a student and nothing of this project: plain diffusers, and MLflow."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.project import Project

_REFUSED = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fewstep", "tasks", "flows", "infra", "tests"):
            raise ModuleNotFoundError(f"no module named {name!r} here", name=name)
sys.meta_path.insert(0, Absent())
"""

# what the model card shows of diffusers, word by word, from noise of seed 5; then two samples with generators 5 and 6
CARD_OF_DIFFUSERS = """
import ast, json, numpy, torch
code, asked, *out = sys.argv[1:]
*loading, asking = ast.parse(code).body
known = {}
exec(compile(ast.Module(loading, []), "card", "exec"), known)
torch.manual_seed(5)
exec(compile(ast.Module([asking], []), "card", "exec"), known)

def numbers(samples):
    if isinstance(samples, torch.Tensor):
        return samples.float().numpy()
    found = numpy.asarray([numbers(one) for one in samples] if isinstance(samples, list) else samples)
    return found / numpy.float32(255) if found.dtype == numpy.uint8 else found

two = known["pipe"](**json.loads(asked), generator=[torch.Generator().manual_seed(seed) for seed in (5, 6)],
                    output_type="np", return_dict=False)[0]
for path, samples in zip(out, (known["samples"], two), strict=True):
    numpy.save(path, numbers(samples))
"""

# what the model card shows of MLflow, word by word, whose seeds are 0, 1, …; then two samples of seeds 5 and 6; then
# what is said of a bad request
CARD_OF_MLFLOW = """
import json, mlflow, numpy, pandas
code, tracking, asked, bad, *out = sys.argv[1:]
mlflow.set_tracking_uri(tracking)
known = {}
exec(compile(code, "card", "exec"), known)
two = known["model"].predict(pandas.DataFrame({**json.loads(asked), "seed": [5, 6]}))
for path, samples in zip(out, (known["samples"], two), strict=True):
    numpy.save(path, samples)
try:
    known["model"].predict(pandas.DataFrame(json.loads(bad)))
except Exception as error:
    print(error)
"""


def alone(script: str, *words: object, project: Project, folder: Path) -> str:
    """Runs the script in a process that cannot import this project, with these words behind it in `sys.argv`, in
    `folder`; returns what it printed."""
    done = subprocess.run([sys.executable, "-P", "-c", _REFUSED + script, *map(str, words)], capture_output=True,
                          text=True, cwd=folder, env=project.environment(PYTHONPATH=""))  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def shown_python(card: str) -> list[str]:
    """The blocks of Python that a model card shows: with MLflow, and with diffusers alone."""
    return [block.split("```")[0] for block in card.split("```python\n")[1:]]
