"""What a version must be before it is compared with anybody: complete, of known origin, unchanged, sound.

Every function returns the reasons against it, one line each; none when there are none.
"""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

from fewstep.util.errors import DataDiffers, NotAvailable
from fewstep.util.hashing import sha256_file
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.registry.lineage import UNCOMMITTED, acceptances, problems, trace
from tasks.registry.model_registry import Registry, Version
from tasks.registry.packaged import smoke_test
from tasks.storage.dvc import dvc_cache, dvc_lockfile
from tasks.storage.file_io import list_files

MEASURE = ("reference", "reference_digest", "features", "features_digest", "dimensions", "value_range", "clipped",
           "quantised", "resized", "antialiased", "reference_statistics")  # fmt: skip
"""What of a protocol two versions must share; noise, seeds and counts are those of the gate itself."""

OF_PROMPTS = {"retrieval", "text_alignment"}
"""Floors' figures that models of prompts have in the place of the class accuracy."""


def check_floors(results: dict, floors: dict, *, drawn: bool = False) -> tuple[list[str], dict]:
    """Floors that `results` (metrics.json's `floors` figures) miss, and the figures that were compared.

    A floor is `max_<figure>` or `min_<figure>`; None asks nothing. A figure that was not measured fails its floor;
    those of classes are not asked of models of prompts, nor those of prompts of others, nor copies of training images
    where the reference is `drawn` by the teacher.
    """
    of_others = {"class_accuracy"} if set(results) & OF_PROMPTS else OF_PROMPTS
    of_others = of_others | ({"copies"} if drawn else set())
    reasons, figures = [], {}
    for name, limit in floors.items():
        if limit is None:
            continue
        side, _, figure = name.partition("_")
        if figure in of_others:
            continue
        value = results.get(figure)
        figures[figure] = value
        if value is None:
            reasons.append(f"{figure} was not measured, and register.floors.{name} asks for it")
        elif side == "max" and not value <= limit:
            reasons.append(f"{figure} is {value:.4g}, above register.floors.{name} = {limit:g}")
        elif side == "min" and not value >= limit:
            reasons.append(f"{figure} is {value:.4g}, below register.floors.{name} = {limit:g}")
    return reasons, figures


def incomplete(version: Version) -> list[str]:
    """What is missing in the evaluation that the version was registered with."""
    results, found = version.provenance.results, []
    missing = [name for name in ("student", "floors", "protocol") if not results.get(name)]
    if missing:
        return [f"its evaluation is incomplete: no {', no '.join(missing)} in its results"]
    if results["protocol"] not in version.provenance.protocols:
        found.append(f"its evaluation is incomplete: the protocol {results['protocol']} is not registered with it")
    for steps, row in results["student"].items():
        odd = [name for name, value in row.items() if value is None or not math.isfinite(value)]
        if odd or not row:
            found.append(f"its evaluation is incomplete: {', '.join(odd) or 'nothing'} measured with {steps} steps")
    return found


def other_protocol(version: Version, champion: Version) -> list[str]:
    """How the two were measured differently: under other data or features no comparison says anything."""
    mine, theirs = (made_of.protocols.get(made_of.results.get("protocol"), {})
                    for made_of in (version.provenance, champion.provenance))  # fmt: skip
    differing = [name for name in MEASURE if mine.get(name) != theirs.get(name)]
    return [f"it was evaluated under another protocol than {champion.name}: {name} is {_short(mine.get(name))}, "
            f"the champion's {_short(theirs.get(name))}" for name in differing]  # fmt: skip


def same_model(registry: Registry, version: Version, champion: Version) -> list[str]:
    """Whether it is the champion again: the same weights, sampled in the same way, whatever else lies in the folder."""
    if version.provenance.weights != champion.provenance.weights:
        try:
            folders = [registry.pipeline(one) for one in (version, champion)]
        except (DataDiffers, NotAvailable):
            return []  # said by `altered`, or by the comparison
        if _content(folders[0]) != _content(folders[1]):
            return []
    return [f"its weights are identical to the champion's ({champion.name})"]


def _content(folder: Path) -> dict:
    """What the samples depend on: tensors, settings and code; not their formatting or documentation."""
    found = {}
    for name in list_files(folder):
        path = folder / name
        if path.suffix == ".json":
            found[name] = json.loads(path.read_text())
        elif path.suffix in (".safetensors", ".py"):
            found[name] = sha256_file(path)
    return found


def without_lineage(registry: Registry, version: Version, figures: dict[str, Any]) -> list[str]:
    """What in the version's lineage does not verify. Code that was accepted in it is noted in `figures`."""
    lineage = trace(registry, version)
    accepted = acceptances(lineage)
    if accepted:
        figures["accepted"] = accepted
    reasons = []
    for link in problems(lineage):
        if link.cause == UNCOMMITTED:
            reasons.append(f"uncommitted changes in the code that made it: {link.detail}")
        else:
            reasons.append(f"its lineage does not verify: {link.title}: {link.detail or link.state}")
    return reasons


def unknown_to_dvc(registry: Registry, version: Version) -> list[str]:
    """Data and teacher of which DVC has no record, or has a record of other bytes."""
    found = []
    with tempfile.TemporaryDirectory(prefix="gate-", dir=registry.folder) as scratch:
        lock = registry.snapshot(version, Path(scratch) / "snapshot") / "dvc.lock"
        for name, recorded in sorted(version.provenance.stages.items()):
            output = graph.stage(name).output
            md5, folder = dvc_cache.locked_md5(lock, output), registry.workspace.root / output
            if md5 is None:
                found.append(f"{output} is unknown to DVC: the registered dvc.lock does not name it")
                continue
            here = manifests.load(folder) if (folder / manifests.NAME).is_file() else None
            own = here is not None and (here.digest, here.key) == (recorded.digest, recorded.key)
            if own and dvc_lockfile.dvc_md5(folder) != md5:
                found.append(f"{output} is unknown to DVC: the registered dvc.lock records other bytes ({md5[:12]})")
    return found


def altered(registry: Registry, version: Version) -> list[str]:
    """Whether the registered bytes are those that were registered."""
    try:
        registry.pipeline(version)
    except (DataDiffers, NotAvailable) as error:
        return [str(error)]
    return []


def unsound(registry: Registry, version: Version) -> list[str]:
    """Weights that are not finite; a folder that does not load and sample by class on its own."""
    return [f"{version.name}: {line}" for line in smoke_test.problems(registry.pipeline(version))]


def _short(value) -> str:
    text = str(value)
    return text if len(text) <= 20 else text[:12]
