"""Ratios measured side by side: the variants take turns in one process, and each round gives one ratio."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch


def take_turns(
    variants: dict[str, Callable[[], object]], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every variant in every round; the variants take turns, after one turn that is not counted.

    ``clock``: ``time.process_time`` counts what this process computed, and is fair on a machine that others use too;
    only for variants that use one thread and wait for nothing.
    """
    for work in variants.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, work in variants.items():
            start = clock()
            work()
            found[name].append(clock() - start)
    return found


def seconds_of(work: Callable[[], object]) -> float:
    """That `work` takes, waiting included."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rates(times: dict[str, list[float]], amounts: dict[str, int]) -> dict[str, list[float]]:
    """Amounts per second of every variant in every round."""
    return {name: [amounts[name] / value for value in values] for name, values in times.items()}


def ratio(rate: dict[str, list[float]], one: str, other: str) -> dict[str, float]:
    """How many times as fast ``one`` is as ``other``: median, least and greatest over the rounds."""
    values = [a / b for a, b in zip(rate[one], rate[other], strict=True)]
    return {"median": statistics.median(values), "least": min(values), "greatest": max(values)}


def machine() -> dict:
    """What the figures were taken on."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "cores": len(os.sched_getaffinity(0)),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def goal(name: str, measured: dict[str, float], at_least: float) -> dict:
    """A line of the report: a ratio and what is asked of it."""
    return {"goal": name, **measured, "at_least": at_least, "met": measured["median"] >= at_least}


def table(title: str, rate: dict[str, list[float]], goals: list[dict], unit: str) -> str:
    """The result as Markdown."""
    lines = [f"### {title}", "", f"| variant | {unit} |", "|---|---:|"]
    lines += [f"| {name} | {statistics.median(values):,.1f} |" for name, values in rate.items()]
    lines += ["", "| ratio | median | least to greatest | goal |", "|---|---:|---:|---|"]
    for row in goals:
        spread = f"{row['least']:.2f} to {row['greatest']:.2f}"
        asked = f"≥ {row['at_least']:g}: {'met' if row['met'] else 'missed'}"
        lines.append(f"| {row['goal']} | {row['median']:.2f} | {spread} | {asked} |")
    return "\n".join(lines) + "\n"


def parser(description: str) -> argparse.ArgumentParser:
    """The options every benchmark has."""
    found = argparse.ArgumentParser(description=description)
    found.add_argument("--rounds", type=int, default=7, help="times that every variant takes its turn")
    found.add_argument("--json", type=Path, help="write the figures to this file")
    found.add_argument("--markdown", type=Path, help="write the tables to this file")
    return found


def publish(options: argparse.Namespace, text: str, figures: dict) -> None:
    """Print the tables; write them and the figures where the options say."""
    figures = {"machine": machine(), **figures}
    print(text)
    print(f"machine: {figures['machine']}", file=sys.stderr)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    if options.markdown:
        options.markdown.write_text(text)
