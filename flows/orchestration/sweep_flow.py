"""The sweep: recipes one after the other through the whole pipeline, each in a workspace of its own.

A recipe's run is an isolated one, so the checkout's params.yaml and outputs stay as they are, and the stages that
recipes share (data, classifier, teacher, baselines, equal trajectories) come back from DVC's cache by their keys. What
is done is remembered; an unfinished run is continued.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from fewstep.recipes import load_recipe
from fewstep.util.errors import FewstepError
from flows.runs import isolated
from flows.runs.signals import EXIT_CODE
from tasks.engine.plan import plan
from tasks.report import recipe_table
from tasks.storage.workspace import Workspace

NAME = "fewstep-sweep"


@dataclass
class Sweep:
    """What is swept: `sets` are changes of params.yaml for every recipe alike. `say` is told what is going on."""

    workspace: Workspace
    recipes: list[str]
    sets: list[str]
    images: int
    name: str
    quiet: bool
    say: Callable[[str], None]
    rows: list[dict] = field(default_factory=list)

    def sets_of(self, recipe: str) -> list[str]:
        """A recipe's changes of params.yaml: judged at the steps it declares, registered apart and never promoted."""
        steps = load_recipe(recipe).student.steps
        return [f"distill.recipe={recipe}", f"distill.images={self.images}", f"evaluate.steps=[{steps}]",
                f"name={self.name}-sweep", "register.promote=never", *self.sets]  # fmt: skip


_SWEEPS: dict[str, Sweep] = {}


@task(name="recipe", task_run_name="{recipe}", cache_policy=NO_CACHE, persist_result=False)
def recipe_task(sweep_id: str, recipe: str) -> dict:
    """One recipe's row: remembered, or made by a run. A recipe that fails has a row that says why."""
    this = _SWEEPS[sweep_id]
    try:
        row = _row(this, recipe)
    except FewstepError as error:
        row = {"recipe": recipe, "error": str(error).splitlines()[0]}
    except SystemExit as stopped:  # of the run's own process, which has said why
        if stopped.code == EXIT_CODE:
            raise KeyboardInterrupt from None
        row = {"recipe": recipe, "error": f"its run ended with exit code {stopped.code}; see `fewstep status`"}
    this.rows.append(row)
    return row


@flow(name=NAME, flow_run_name="sweep", persist_result=False, validate_parameters=False)
def sweep_flow(sweep_id: str) -> int:
    """Every recipe of the sweep; returns how many rows there are."""
    for recipe in _SWEEPS[sweep_id].recipes:
        recipe_task(sweep_id, recipe)
    return len(_SWEEPS[sweep_id].rows)


def run_sweep(this: Sweep) -> list[dict]:
    """Runs the flow; the rows in the order of the recipes."""
    _SWEEPS[NAME] = this
    try:
        sweep_flow(NAME)
    finally:
        del _SWEEPS[NAME]
    return this.rows


def _row(this: Sweep, recipe: str) -> dict:
    workspace = this.workspace
    settings, text = isolated.resolve(workspace, this.sets_of(recipe), None)
    key = next(item.key for item in plan(workspace, settings) if item.stage == "evaluate")
    row = recipe_table.remembered(workspace, recipe, key)
    if row is not None:
        this.say(f"{recipe}: up to date")
        return row
    this.say(f"{recipe}: {load_recipe(recipe).summary}")
    record = isolated.execute(workspace, isolated.start(workspace, settings, text), quiet=this.quiet)
    row = recipe_table.row_of(Path(record.root), recipe, load_recipe(recipe).student.steps)
    recipe_table.remember(workspace, recipe, record.stages["evaluate"].key, row)
    isolated.tidy(workspace, record)
    return row
