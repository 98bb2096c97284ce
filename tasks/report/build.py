"""Making reports: of a checkout after its evaluation, of runs and registered versions, and of several together."""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from fewstep.metrics.protocol import ProtocolsDiffer, restore
from fewstep.util.errors import NotAvailable, SettingsError
from tasks.report import FOLDER, PAGE
from tasks.report.report_data import Material, of_checkout, of_version
from tasks.storage.file_io import write_if_other

if TYPE_CHECKING:
    from tasks.storage.workspace import Workspace


def make(workspace: Workspace, label: str | None = None) -> Path:
    """Writes data/report (page and material) of what is published in a checkout and returns the folder.

    Raises NotAvailable when nothing was evaluated yet.
    """
    folder = workspace.data / FOLDER
    material = of_checkout(workspace, label or _name(workspace))
    material.store(folder)
    write(folder / PAGE, [material])
    return folder


def write(path: Path, materials: list[Material]) -> None:
    """Writes the page of these materials. Raises ProtocolsDiffer when several were measured differently."""
    from tasks.report.page import render

    ensure_one_protocol(materials)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_if_other(path, render(materials))


def find(workspace: Workspace, text: str | None) -> Material:
    """The material of a run (its id, or its beginning or end), of MODEL@ALIAS or MODEL/VERSION, or, for None, of what
    is published here.

    Raises SettingsError when nothing has that name, NotAvailable when it has no report.
    """
    if text is None:
        return of_checkout(workspace, _name(workspace))
    from tasks.tracking.run_records import RunStore

    store = RunStore(workspace)
    ids = store.ids()
    if any(text == run or run.startswith(text) or run.endswith(text) for run in ids):
        return _of_run(store, store.find(text), workspace)
    if "@" in text or "/" in text:
        return _of_version(workspace, text)
    from fewstep.util.errors import FewstepError

    try:
        return _of_version(workspace, text)
    except FewstepError as error:
        raise SettingsError(f"{text!r} is neither a run nor a registered model",
                            hint="`fewstep status --all` lists the runs; name a model as NAME@ALIAS") from error


def ensure_one_protocol(materials: list[Material]) -> None:
    """Raises ProtocolsDiffer, naming metric and fields, unless every metric that two materials share was measured under
    one protocol."""
    first = materials[0]
    known = _values(first)
    for other in materials[1:]:
        lines = []
        for name, value in _values(other).items():
            found = known[name].protocol.differences(value.protocol) if name in known else []
            lines += [line for line in found if line not in lines]
        if lines:
            raise ProtocolsDiffer(
                f"{first.label} and {other.label} cannot be compared, their protocols differ in {'; '.join(lines)}",
                hint="evaluate both with the same settings, data and classifier",
            )


def _values(material: Material) -> dict:
    document = material.document
    row = document["student"][0]
    return restore(row["values"], document["protocols"], row["subject"])


def _of_run(store, record, workspace: Workspace) -> Material:
    kept = store.folder_of(record.id) / FOLDER
    try:
        return replace(Material.load(kept), label=record.id)
    except NotAvailable:
        made = record.stages.get("evaluate")
        here = workspace.data / "evaluation" / "manifest.json"
        if made and here.is_file() and json.loads(here.read_text()).get("digest") == made.digest:
            return of_checkout(workspace, record.id)
        raise NotAvailable(f"run {record.id} kept no report",
                           hint="a run keeps one when its evaluation is done; `fewstep report MODEL@ALIAS` makes one "
                                "of what it registered") from None


def _of_version(workspace: Workspace, text: str) -> Material:
    from tasks.registry.model_registry import Registry

    registry = Registry(workspace)
    version = registry.resolve(text)
    with tempfile.TemporaryDirectory(prefix="report-") as scratch:
        return of_version(registry, version, Path(scratch) / "snapshot")


def _name(workspace: Workspace) -> str:
    from tasks.config import params_file

    try:
        return params_file.load(workspace.params).name
    except SettingsError:
        return workspace.root.name
