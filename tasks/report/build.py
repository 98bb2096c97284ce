"""Making reports: of a checkout after its evaluation, of runs and registered versions, and of several together."""

from __future__ import annotations

import tempfile
from pathlib import Path

from fewstep.metrics.protocol import ProtocolsDiffer, Value
from fewstep.util.errors import FewstepError, NotAvailable, SettingsError
from tasks.config import params_file
from tasks.config.outside import outside_paths
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.report import FOLDER, PAGE
from tasks.report.card_pictures import pictures_of
from tasks.report.model_card import CARD, model_card
from tasks.report.page import render
from tasks.report.report_data import Material, of_checkout, of_version
from tasks.storage.file_io import write_if_other
from tasks.storage.workspace import Workspace
from tasks.tracking.run_record import RunRecord
from tasks.tracking.run_records import RunStore


def make(workspace: Workspace, label: str | None = None) -> Path:
    """Writes data/report (page, model card with its pictures, and material) of what is published in a checkout and
    returns the folder.

    Raises NotAvailable when nothing was evaluated yet.
    """
    folder = workspace.data / FOLDER
    material = of_checkout(workspace, label or _name(workspace))
    material.store(folder)
    write(folder / PAGE, [material])
    student = workspace.root / graph.stage("distill").output
    for name, (_, content) in pictures_of(material).items():
        write_if_other(folder / name, content)
    write_if_other(folder / CARD, model_card(material, student, _given_teacher(workspace)))
    return folder


def _given_teacher(workspace: Workspace) -> Path | None:
    try:
        return outside_paths(params_file.load(workspace.params), workspace.root)["teacher"]
    except SettingsError:
        return None


def write(path: Path, materials: list[Material]) -> None:
    """Writes the page of these materials. Raises ProtocolsDiffer when several were measured differently."""
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
    store = RunStore(workspace)
    ids = store.ids()
    if any(text == run or run.startswith(text) or run.endswith(text) for run in ids):
        return _of_run(store, store.find(text), workspace)
    if "@" in text or "/" in text:
        return _of_version(workspace, text)
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


def _values(material: Material) -> dict[str, Value]:
    return material.document.restored(material.document.first)


def _of_run(store: RunStore, record: RunRecord, workspace: Workspace) -> Material:
    try:
        return Material.load(store.folder_of(record.id) / FOLDER).model_copy(update={"label": record.id})
    except NotAvailable:
        made = record.stages.get("evaluate")
        here = manifests.load_quietly(workspace.data / "evaluation")
        if made and here is not None and here.digest == made.digest:
            return of_checkout(workspace, record.id)
        raise NotAvailable(f"run {record.id} kept no report",
                           hint="a run keeps one when its evaluation is done; `fewstep report MODEL@ALIAS` makes one "
                                "of what it registered") from None


def _of_version(workspace: Workspace, text: str) -> Material:
    from tasks.registry.model_registry import Registry  # loads MLflow

    registry = Registry(workspace)
    version = registry.resolve(text)
    with tempfile.TemporaryDirectory(prefix="report-") as scratch:
        return of_version(registry, version, Path(scratch) / "snapshot")


def _name(workspace: Workspace) -> str:
    try:
        return params_file.load(workspace.params).name
    except SettingsError:
        return workspace.root.name
