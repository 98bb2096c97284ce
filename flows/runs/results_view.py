"""What is printed after a run: how long it took, the table of results, and the commands that come next."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from flows.output import duration, say
from tasks.registry import registration_result
from tasks.registry.registration_result import RegistrationResult
from tasks.report import FOLDER, PAGE, results_table
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import RunRecord, seconds_between
from tasks.tracking.run_records import RunStore

GRID = "grid.png"


def show_finished(record: RunRecord, out: Console) -> None:
    """The end of a successful run."""
    seconds = seconds_between(record.attempts[-1].started, record.ended) if record.attempts else None
    say(out, f"run {record.id} finished in {duration(seconds)}", style="bold green")
    root = Path(record.root)
    if record.isolated:     # its worktree will go; pictures and page are kept beside the record
        kept = RunStore(Workspace(root)).folder_of(record.id)
        show_results(root, record.name, out, picture=kept / GRID, page=kept / FOLDER / PAGE)
    else:
        show_results(root, record.name, out)


def show_results(root: Path, name: str, out: Console, *, picture: Path | None = None, page: Path | None = None) -> None:
    """The table of what is published in a checkout, and what comes next.

    Args:
        root: the checkout.
        name: of the experiment.
        out: where to print.
        picture: grid of samples; by default the published one.
        page: report; by default the published one.
    """
    evaluation = root / "data" / "evaluation"
    picture, page = picture or evaluation / GRID, page or root / "data" / FOLDER / PAGE
    if (evaluation / "evaluation.json").exists():
        out.print()
        out.print(results_table.table(root))
    lines = [("look at", str(page if page.exists() else picture))] if picture.exists() else []
    model = f"fewstep-{name}@candidate"
    registration = root / "data" / "registration" / registration_result.NAME
    if registration.exists():
        registered = RegistrationResult.model_validate_json(registration.read_bytes())
        model = f"{registered.model}/{registered.version}"
        outcome = "promoted to @champion" if registered.promoted else f"not promoted: {'; '.join(registered.reasons)}"
        lines.append(("model", f"{model}, {outcome}"))
    lines += [("sample", f"fewstep sample {model}"), ("lineage", f"fewstep lineage {model}"), ("pages", "fewstep ui")]
    out.print()
    for label, text in lines:
        say(out, f"{label:<9}{text}")
