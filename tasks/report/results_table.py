"""The result in one look: a table for the terminal, the same in Markdown, and a sentence that says what it means.

Reads data/evaluation/evaluation.json (and the costs, where there are any). No torch here.
"""

import json
from dataclasses import dataclass
from pathlib import Path

from fewstep.metrics.metric_names import counted, solver_name
from fewstep.util.errors import CorruptData, NotAvailable

_WIDE = 80
_ABSENT = "–"


@dataclass(frozen=True)
class Line:
    """One row of the table: `values` as in evaluation.json, empty where there is nothing to show."""

    section: str
    model: str
    evaluations: str
    values: dict
    rate: float | None = None


def load(data: Path) -> dict:
    """evaluation.json below the `data` folder, with `cost` (teacher and student timings) beside it.

    Raises:
        NotAvailable: nothing was evaluated yet.
        CorruptData: the file is damaged.
    """
    path = Path(data) / "evaluation" / "evaluation.json"
    if not path.is_file():
        raise NotAvailable(f"{path}: nothing was evaluated yet", hint="`fewstep run` trains and evaluates a student")
    document = _json(path)
    document["cost"] = {name: _json(file) if (file := Path(data) / "cost" / f"{name}.json").is_file() else {}
                        for name in ("baselines", "evaluate")}  # fmt: skip
    return document


def _json(path: Path) -> dict:
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise CorruptData(f"{path}: not readable as JSON ({error})") from None


def lines(document: dict) -> list[Line]:
    """The rows of the table in order: student, solvers at the student's costs, teacher at all costs, real images."""
    cost = document.get("cost", {})
    timed = cost.get("evaluate", {}).get("student", {})
    found = [
        Line("student", "student", str(row["evaluations"]), row["values"],
             timed.get(str(row["steps"]), {}).get("images_per_second"))
        for row in document["student"]
    ]  # fmt: skip
    teacher = next(row for row in document["rows"] if row["teacher"])
    counts = [row["evaluations"] for row in document["student"]]
    for solver in dict.fromkeys(row["solver"] for row in document["rows"]):
        if solver != teacher["solver"]:
            found += _at_counts(document, solver, counts)
    of_teacher = [row for row in document["rows"] if row["solver"] == teacher["solver"]]
    speed = cost.get("baselines", {}).get("teacher", {}).get("images_per_second")
    for row in sorted(of_teacher, key=lambda row: row["evaluations"]):
        found.append(Line("teacher", f"teacher ({solver_name(row['solver'])})", str(row["evaluations"]), row["values"],
                          speed if row["teacher"] else None))  # fmt: skip
    found.append(Line("real", "real images", _ABSENT, document["floor"]["values"]))
    return found


def _at_counts(document: dict, solver: str, counts: list[int]) -> list[Line]:
    """The solver at each count; where it has no such count, at the nearest lower one under its true number, once."""
    rows = {row["evaluations"]: row for row in document["rows"] if row["solver"] == solver}
    shown, found = set(), []
    for count in counts:
        nearest = max((n for n in rows if n <= count), default=None)
        if nearest is None or nearest in shown:
            found.append(Line("solver", solver_name(solver), str(count), {}))
            continue
        shown.add(nearest)
        found.append(Line("solver", solver_name(solver), str(nearest), rows[nearest]["values"]))
    return found


@dataclass(frozen=True)
class Result:
    """Renders itself in a rich console: the table in as many columns as fit, and the verdict below."""

    document: dict

    def __rich_console__(self, console, options):
        yield table_of(self.document, options.max_width)
        yield ""
        yield verdict(self.document)
        yield from self.document.get("notes", [])


def table(root: Path) -> Result:
    """What was evaluated last in the checkout at `root`, ready to print. Raises as `load` does."""
    return Result(load(Path(root) / "data"))


def table_of(document: dict, width: int = _WIDE):
    """A rich table for a terminal of `width` columns; narrow ones show fewer columns, never cut ones."""
    from rich.table import Table

    wide = width >= _WIDE
    made = Table(box=None, padding=(0, 1), pad_edge=False, title_justify="left", title_style="dim")
    made.title = f"{document['samples']} samples, {document['reference']} test images, FD in {document['features']}"
    made.add_column("model", no_wrap=True)
    for heading in _headings(document, wide):
        made.add_column(heading, justify="right", no_wrap=True)
    section = ""
    for line in lines(document):
        if section and line.section != section:
            made.add_row(*[""] * (len(_headings(document, wide)) + 1))
        section = line.section
        model = line.model if wide else line.model.split(" (")[0]
        made.add_row(model, *_cells(document, line, wide), style="bold" if section == "student" else "")
    return made


def markdown(document: dict) -> str:
    """The verdict and the table in Markdown, with intervals and what the columns mean."""
    head = ["model", *_headings(document, True)]
    rows = [[line.model, *_cells(document, line, True)] for line in lines(document)]
    aligned = [":--", *["--:"] * (len(head) - 1)]
    body = "\n".join("| " + " | ".join(row) + " |" for row in [head, aligned, *rows])
    return f"{verdict(document)}\n\n{body}\n\n{legend(document)}\n"


def legend(document: dict) -> str:
    """What the columns mean, in two or three sentences."""
    text = (
        f"eval.: network evaluations per sample. FD: Fréchet distance in {document['features']} features of the "
        f"pipeline's own, extrapolated to infinitely many samples (not an FID); KID: unbiased, in thousandths; both "
        f"with half of their 95 % interval, from {document['samples']} samples against {document['reference']} test "
        f"images. "
    )
    if "class_accuracy" in document["student"][0]["values"]:
        text += "class: share recognised as the class asked for. "
    text += "P/R: precision and recall in per cent."
    return " ".join([text, *document.get("notes", [])])


def verdict(document: dict) -> str:
    """What the student reaches in its fewest steps, beside what else costs as much and what is possible."""
    row = document["student"][0]
    found = document["comparisons"][str(row["steps"])]
    teacher = next(one for one in document["rows"] if one["teacher"])
    distance = row["values"]["fd_infinite"]["value"]
    text = f"In {counted(row['steps'], 'step')} the student reaches a Fréchet distance of {distance:.3g}"
    if found["solver"]:
        best = next(one for one in document["rows"]
                    if (one["solver"], one["evaluations"]) == (found["solver"], found["evaluations"]))  # fmt: skip
        text += (f"; the best training-free solver with {counted(found['evaluations'], 'network evaluation')} "
                 f"({solver_name(found['solver'])}) has {best['values']['fd_infinite']['value']:.3g}")  # fmt: skip
        if found["fd_ratio"] and found["fd_ratio"] > 0:
            ratio = 1 / found["fd_ratio"]
            text += f", {ratio:.1f} times as much" if ratio >= 1 else f", only {ratio:.2f} times as much"
    text += (f"; the teacher with {teacher['evaluations']} has {teacher['values']['fd_infinite']['value']:.3g}, "
             f"real images {document['floor']['values']['fd_infinite']['value']:.3g}")  # fmt: skip
    return f"{text}. {equivalence(document, row)}."


def equivalence(document: dict, row: dict) -> str:
    """`1 step = DPM-Solver++ at 14 evaluations (95 %: 9.1 to 16), 11.8 times faster`: the training-free setting that a
    student's row equals in Fréchet distance, by interpolation, and what it costs in comparison."""
    found = document["comparisons"][str(row["steps"])]
    if not found.get("equals_solver"):
        return f"No training-free setting that was tried is as good as {counted(row['steps'], 'step')}"
    one = found["equals"][found["equals_solver"]]
    fewest, most = one["tried"]
    low = f"{one['low']:.2g}" if one["low"] else f"fewer than {fewest}" if fewest > 1 else "1"
    high = f"{one['high']:.2g}" if one["high"] else f"{most} or more"
    at = f"{one['evaluations']:.2g}"
    noun = "evaluation" if at == "1" else "evaluations"
    return (f"{counted(row['steps'], 'step')} = {solver_name(found['equals_solver'])} at {at} {noun} "
            f"(95 %: {low} to {high}){_faster(document, row, found)}")  # fmt: skip


def _faster(document: dict, row: dict, found: dict) -> str:
    """How much faster one image is, where times were measured; else how much fewer evaluations it takes."""
    ratio = speedup(document, row)
    if ratio is not None:
        if 0.95 <= ratio <= 1.05:
            return ", as fast"
        return f", {ratio:.3g} times faster" if ratio > 1 else f", {1 / ratio:.3g} times slower"
    times = found["equals_evaluations"] / row["evaluations"]
    return f", {times:.3g} times cheaper" if times > 1 else ""


def speedup(document: dict, row: dict) -> float | None:
    """Time for one image of the training-free setting that equals a student's row (between two measured counts, in
    proportion) over the student's; None where either was not measured or nothing equals it."""
    found, cost = document["comparisons"][str(row["steps"])], document.get("cost", {})
    mine = cost.get("evaluate", {}).get("student", {}).get(str(row["steps"]), {}).get("latency_ms")
    solver, at = found.get("equals_solver"), found.get("equals_evaluations")
    timed = {int(name.rpartition("-")[2]): entry["latency_ms"]
             for name, entry in cost.get("baselines", {}).get("solvers", {}).items()
             if name.rpartition("-")[0] == solver}  # fmt: skip
    below = max((n for n in timed if at is not None and n <= at), default=None)
    above = min((n for n in timed if at is not None and n >= at), default=None)
    if not mine or below is None or above is None:
        return None
    share = (at - below) / (above - below) if above > below else 0.0
    return (timed[below] + share * (timed[above] - timed[below])) / mine


def _headings(document: dict, wide: bool) -> list[str]:
    classes = ["class"] if "class_accuracy" in document["student"][0]["values"] else []
    return ["eval.", "FD", "KID·10³", *classes, *(["P/R", "img/s"] if wide else [])]


def _cells(document: dict, line: Line, wide: bool) -> list[str]:
    cells = [line.evaluations, _with_half(line.values.get("fd_infinite"), 3, 1),
             _with_half(line.values.get("kid"), 1, 1000)]  # fmt: skip
    if "class" in _headings(document, wide):
        cells.append(_percent(line.values.get("class_accuracy")) + ("" if not line.values else " %"))
    if wide:
        both = [_percent(line.values.get(name)) for name in ("precision", "recall")]
        cells.append("/".join(both) if line.values else _ABSENT)
        cells.append(_ABSENT if line.rate is None else f"{line.rate:.3g}" if line.rate < 1000 else f"{line.rate:.0f}")
    return cells


def _with_half(entry: dict | None, digits: int, scale: float) -> str:
    if not entry or entry["value"] is None:
        return _ABSENT
    low, high = entry["interval"]
    return f"{scale * entry['value']:.{digits}f} ±{scale * (high - low) / 2:.{digits}f}"


def _percent(entry: dict | None) -> str:
    return _ABSENT if not entry else f"{100 * entry['value']:.0f}"


