"""The sweep: recipes one after the other through the whole pipeline, each in a workspace of its own.

A recipe's run is an isolated one, so the checkout's params.yaml and outputs stay as they are, and the stages that
recipes share (data, classifier, teacher, baselines, equal trajectories) come back from DVC's cache by their keys. Rows
are remembered; an unfinished run is continued.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from prefect import flow, task

from fewstep.recipes import load_recipe
from fewstep.util.errors import FewstepError
from flows.executors.prefect_tasks import IN_PROCESS
from flows.runs import isolated
from flows.runs.signals import EXIT_CODE
from tasks.engine.plan import plan
from tasks.report import recipe_table
from tasks.storage.workspace import Workspace
from tasks.tracking.redacted_logs import without_secrets

NAME = "fewstep-sweep"


@dataclass
class Sweep:
    """Recipes to compare, as the functions of Prefect's flow and task (see pipeline_flow.Session).

    Attributes:
        workspace: the checkout, which stays as it is.
        recipes: names or YAML files.
        sets: changes of params.yaml for every recipe alike.
        images: training samples of each.
        name: of the experiment.
        quiet: whether the runs print nothing.
        say: is told what is going on.
        rows: of the recipes that are done.
    """

    workspace: Workspace
    recipes: list[str]
    sets: list[str]
    images: int
    name: str
    quiet: bool
    say: Callable[[str], None]
    rows: list[dict] = field(default_factory=list)

    def run(self) -> list[dict]:
        """Runs the flow; returns the rows in the order of the recipes."""
        flow(self.all_recipes, name=NAME, flow_run_name="sweep", persist_result=False, validate_parameters=False)()
        return self.rows

    def all_recipes(self) -> int:
        """Every recipe, as Prefect's flow; returns how many rows there are."""
        one_recipe = task(self.recipe, name="recipe", task_run_name="{recipe}", **IN_PROCESS)
        for recipe in self.recipes:
            self.rows.append(one_recipe(recipe))
        return len(self.rows)

    @without_secrets()
    def recipe(self, recipe: str) -> dict:
        """One recipe's row: remembered, or made by a run. A recipe that fails has a row that says why."""
        try:
            return self._row(recipe)
        except FewstepError as error:
            return {"recipe": recipe, "error": str(error).splitlines()[0]}
        except SystemExit as stopped:   # of the run's process, which has said why
            if stopped.code == EXIT_CODE:
                raise KeyboardInterrupt from None
            return {"recipe": recipe, "error": f"its run ended with exit code {stopped.code}; see `fewstep status`"}

    def _row(self, recipe: str) -> dict:
        steps = load_recipe(recipe).student.steps
        settings, text = isolated.resolve(self.workspace, self._sets_of(recipe, steps), None)
        key = next(item.key for item in plan(self.workspace, settings) if item.stage == "evaluate")
        row = recipe_table.remembered(self.workspace, recipe, key)
        if row is not None:
            self.say(f"{recipe}: up to date")
            return row
        self.say(f"{recipe}: {load_recipe(recipe).summary}")
        record = isolated.execute(self.workspace, isolated.start(self.workspace, settings, text), quiet=self.quiet)
        row = recipe_table.row_of(Path(record.root), recipe, steps)
        recipe_table.remember(self.workspace, recipe, record.stages["evaluate"].key, row)
        isolated.tidy(self.workspace, record)
        return row

    def _sets_of(self, recipe: str, steps: int) -> list[str]:
        """Changes of params.yaml for a recipe: judged at the steps it declares, registered apart, never promoted."""
        return [f"distill.recipe={recipe}", f"distill.images={self.images}", f"evaluate.steps=[{steps}]",
                f"name={self.name}-sweep", "register.promote=never", *self.sets]
