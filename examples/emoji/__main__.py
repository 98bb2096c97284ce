"""`python -m examples.emoji`: teacher, judge, students and docs/emoji.md. Every start goes on where the last ended."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from examples.emoji.settings import SIZES, STUDENTS
from fewstep.util.errors import FewstepError, SettingsError

ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.emoji", description=__doc__)
    parser.add_argument("part", nargs="?", default="all",
                        help="all, autoencoder, pipeline, teacher, judge, student:RECIPE, report")  # fmt: skip
    parser.add_argument("--size", default="full", choices=sorted(SIZES))
    parser.add_argument("--work", type=Path, help="folder of what is made (default .fewstep/emoji-SIZE)")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs", help="folder of emoji.md (default docs)")
    parser.add_argument("--students", nargs="*", default=list(STUDENTS), help="recipes to distil by")
    given = parser.parse_args(arguments)
    work = given.work or ROOT / ".fewstep" / f"emoji-{given.size}"
    try:
        _run(given, work)
    except FewstepError as error:
        print(f"error: {error}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    return 0


def _run(given: argparse.Namespace, work: Path) -> None:
    from examples.emoji.parts import Parts  # torch: seconds, and none are needed to read the options

    parts = Parts(work, SIZES[given.size])
    kind, _, recipe = given.part.partition(":")
    if kind in ("autoencoder", "pipeline", "teacher", "judge") and not recipe:
        getattr(parts, kind)
    elif kind == "student" and recipe:
        parts.student(recipe)
    elif given.part == "report":
        _report(parts, given)
    elif given.part == "all":
        _ = parts.autoencoder
        _side_by_side(given, work, [["teacher"], ["judge"]])
        _side_by_side(given, work, [[f"student:{recipe}"] for recipe in given.students])
        _report(parts, given)
    else:
        raise SettingsError(f"unknown part {given.part!r}", hint="see python -m examples.emoji --help")


def _side_by_side(given: argparse.Namespace, work: Path, parts: list[list[str]], at_once: int = 2) -> None:
    """Makes parts in processes of their own, so many at once; small networks gain nothing by a second thread.

    Raises FewstepError for the first that failed, when those that run have ended.
    """
    waiting, running, failed = list(parts), [], None
    while waiting or running:
        while waiting and len(running) < at_once and failed is None:
            part = waiting.pop(0)
            command = [sys.executable, "-m", "examples.emoji", *part, "--size", given.size, "--work", str(work)]
            running.append((part, subprocess.Popen(command, cwd=ROOT)))
        part, process = running.pop(0)
        if process.wait() and failed is None:
            failed, waiting = (part[0], process.returncode), []
    if failed is not None:
        raise FewstepError(f"{failed[0]} ended with {failed[1]}; what it says stands above")


def _report(parts, given: argparse.Namespace) -> None:
    from examples.emoji.measure import Measuring
    from examples.emoji.report import write_report

    measuring = Measuring(parts)
    models = [measuring.real(), measuring.decoded(), measuring.teacher(), *measuring.rivals()]
    models += [measuring.student(f"`{recipe}`", parts.student(recipe)) for recipe in given.students]
    write_report(measuring, models, given.docs, given.size)
    print(f"{given.docs / 'emoji.md'}: written")


if __name__ == "__main__":
    sys.exit(main())
