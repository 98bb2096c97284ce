"""What commands print: text for people, one JSON document for programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewstep.util.errors import FewstepError
from flows.telemetry import json_log
from tasks.tracking.redaction import redact


def console(*, stderr: bool = False) -> Console:
    """A rich console of the terminal's width; plain text of up to 100 columns where the output is no terminal."""
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 100
    return Console(file=stream, width=width, highlight=False, soft_wrap=False)


def emit(data: Any, as_json: bool, show: Callable[[Console], None]) -> None:
    """Prints the answer of a command: `data` as JSON when `as_json`, else by `show(console)`."""
    if as_json:
        print(json.dumps(data, indent=2, ensure_ascii=False, default=str))
    else:
        show(console())


def examples(*lines: str) -> str:
    """An epilog for `--help`: one example per line (needs markup mode "rich")."""
    return "\n".join(["[bold]Examples[/]", *("  [dim]$[/] " + line.replace("[", "\\[") for line in lines)])


def say(out: Console, text: str | Text, style: str | None = None) -> None:
    """One paragraph: wrapped at words in a terminal, a single line where the output is read by a program.

    A string is redacted; who styles its parts redacts them.
    """
    text = redact(text) if isinstance(text, str) else text
    wrap = out.is_terminal      # rich cuts off what it neither wraps nor lets overflow
    out.print(text, style=style, markup=False, soft_wrap=not wrap, overflow="fold" if wrap else "ignore")


def say_error(out: Console, message: str, hint: str | None) -> None:
    """`error: …` and, below it, what to do; the parts of a hint (between ` · `) stand on lines of their own."""
    say(out, Text("error: ", style="bold red").append(redact(message), style="default"))
    for part in (hint or "").split(" · ") if hint else ():
        say(out, Text("  → ", style="cyan").append(redact(part), style="default"))


def report_error(error: FewstepError) -> None:
    """Prints the error on stderr."""
    if json_log.asked_quietly():
        json_log.write("error", str(error), event="error", hint=error.hint, exit_code=error.exit_code)
        return
    say_error(console(stderr=True), str(error), error.hint)


def json_error(error: FewstepError) -> None:
    """Prints the error as the JSON document of a command that was called with `--json`."""
    print(redact(json.dumps({"error": {"kind": type(error).__name__, "message": str(error), "hint": error.hint,
                                       "exit_code": error.exit_code}}, ensure_ascii=False)))


def grid(*columns: tuple[str, bool]) -> Table:
    """A table of columns by heading; those of numbers stand to the right and are not broken."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for heading, number in columns:
        table.add_column(heading, justify="right" if number else "left", no_wrap=number, overflow="fold")
    return table


def duration(seconds: float | None) -> str:
    """`4 s`, `3 min 20 s`, `2 h 05 min`, `3 d 4 h`; an empty string for None."""
    if seconds is None:
        return ""
    seconds = max(0, round(seconds))
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    if seconds < 2 * 86400:
        return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"
    return f"{seconds // 86400} d {seconds % 86400 // 3600} h"


def count(number: float) -> str:
    """`1234` as `1,234`."""
    return f"{round(number):,}"


def size(number: float) -> str:
    """Bytes with three significant digits: `812 B`, `2.05 kB`, `23.8 GB`."""
    return f"{scaled(number, ('', 'k', 'M', 'G', 'T'))}B"


def parameters(number: float) -> str:
    """A number of parameters with three significant digits: `812`, `2.05 k`, `11.9 B` (10⁹)."""
    return scaled(number, ("", "k", "M", "B", "T")).rstrip()


def scaled(number: float, units: Sequence[str]) -> str:
    """Three significant digits, a space, and the unit, each of `units` a thousand of the one before."""
    power = 0
    while power < len(units) - 1 and float(f"{number:.3g}") >= 1000:
        number, power = number / 1000, power + 1
    return f"{float(f'{number:.3g}'):,.15g} {units[power]}"


def rate(per_second: float) -> str:
    """Images per second with three significant digits: `0.35`, `41.2`, `1,830`."""
    if per_second >= 1000:
        return f"{float(f'{per_second:.3g}'):,.0f}"
    return f"{per_second:.3g}"
