"""The last stage: the student becomes a version of the registered model, with all it came from. See tasks.registry.register_model.

It changes a database, not data: data/registration only says which version the student became. The floors and the
promotion that follows are in tasks.registry.aliases.
"""

import json
from pathlib import Path

from fewstep.util.config import parse
from fewstep.util.errors import FewstepError, SettingsError
from fewstep.util.files import write_atomically
from tasks.config import params_file
from tasks.config.schema import Register
from tasks.engine import graph
from tasks.engine import manifest as manifests
from tasks.registry import aliases, register_model, webhooks
from tasks.registry.model_registry import Registry, Version, model_name
from tasks.storage import dvc_lockfile
from tasks.tracking.metric_buffer import numbers

PARALLEL = False
RESULT = "registration.json"


def check(ctx) -> None:
    """Refuses to register what dvc.lock and params.yaml do not describe: nobody could restore it."""
    student_folder(ctx.inputs["distill"])
    undescribed = describe(ctx.workspace)
    if undescribed:
        raise SettingsError(f"not registered: {undescribed[0]}",
                            hint="run `fewstep run` again without editing params.yaml or data meanwhile")  # fmt: skip


def units(ctx) -> list[str]:
    return ["register"]


def run_unit(ctx, unit: str) -> None:
    registry = Registry(ctx.workspace)
    what = collect(ctx, registry)
    aliases.complete(registry, what.model)
    version, made = register_model.register(what)
    rules = {name: value for name, value in ctx.settings.items() if name != "name"}
    decision = first_promotion(registry, version, parse(Register, rules, "register"))
    webhooks.deliver(registry, what.model)
    result = {
        "model": version.model, "version": version.number, "weights": what.weights, "evaluation": what.evaluation,
        "made": made, "promoted": decision.promoted, "policy": decision.policy, "reasons": list(decision.reasons),
    }  # fmt: skip
    write_atomically(ctx.out / RESULT, json.dumps(result, indent=1, sort_keys=True) + "\n")


def finish(ctx) -> dict:
    return json.loads((ctx.out / RESULT).read_text())


def first_promotion(registry: Registry, version: Version, rules: Register) -> aliases.Decision:
    """What `register.promote` asks for right after registering. That `never` and `first` leave it a candidate is no
    decision about it, and is not recorded."""
    from tasks.registry.gate.promotion_gate import promote

    return promote(registry, version, rules, why="registered by a run", record=rules.promote == "gated")


def student_folder(output: Path) -> Path:
    """The exported pipeline inside the distill stage's output. Raises FewstepError when it is not there."""
    found = sorted(output.rglob("fewstep.json"), key=lambda path: len(path.parts))
    if not found or not (found[0].parent / "model_index.json").is_file():
        raise FewstepError(f"{output} holds no exported student (a diffusers folder with fewstep.json)",
                           hint="`fewstep verify` checks it; `fewstep run` makes it again")  # fmt: skip
    return found[0].parent


def describe(workspace) -> list[str]:
    """What dvc.lock and params.yaml say otherwise than the outputs in data/; empty when they describe them."""
    from tasks.engine.plan import plan

    entries, wrong = dvc_lockfile.lock_entries(workspace), []
    stages = tuple(stage for stage in graph.STAGES if stage.in_dvc)
    for item in plan(workspace, params_file.load(workspace.params), stages=stages):
        if item.state != "current":
            wrong.append(f"params.yaml does not describe data of stage '{item.stage}' ({item.why})")
    for stage in stages:
        outs = (entries.get(stage.name) or {}).get("outs") or [{}]
        if outs[0].get("md5") is None:
            wrong.append(f"dvc.lock has no record of stage '{stage.name}'")
        elif outs[0]["md5"] != dvc_lockfile.dvc_md5(workspace.root / stage.output):
            wrong.append(f"dvc.lock records other bytes than those in {stage.output}")
    return wrong


def collect(ctx, registry: Registry) -> register_model.Registration:
    """Everything that goes with the version, from the verified outputs of the stages before."""
    from tasks.storage import git

    student, root = student_folder(ctx.inputs["distill"]), ctx.workspace.root
    prefix = student.relative_to(ctx.inputs["distill"]).as_posix()
    prefix = "" if prefix == "." else prefix + "/"
    files = [file for file in ctx.manifests["distill"].files if file.path.startswith(prefix)]
    weights = manifests.tree_digest(
        [manifests.File(file.path.removeprefix(prefix), file.bytes, file.sha256) for file in files]
    )
    evaluation = ctx.inputs["evaluate"]
    snapshot = {"params.yaml": ctx.workspace.params, "dvc.lock": root / "dvc.lock", "dvc.yaml": root / "dvc.yaml"}
    stages = {}
    for stage in graph.STAGES:
        if stage.in_dvc:
            manifest = manifests.load(root / stage.output)
            stages[stage.name] = {"key": manifest.key, "digest": manifest.digest, "code": manifest.code,
                                  "modules": []}
            snapshot[f"manifests/{stage.name}.json"] = root / stage.output / manifests.NAME
    for path in sorted(evaluation.rglob("*")):
        if path.name in ("metrics.json", "evaluation.json", "quality.csv", "grid.png", "report.safetensors"):
            snapshot.setdefault(path.name, path)
    page = ctx.workspace.data / "report" / "report.html"
    if page.is_file():
        snapshot["report.html"] = page
    for path in sorted((ctx.workspace.data / "cost").glob("*.json")):
        snapshot[f"cost/{path.name}"] = path
    results = json.loads((evaluation / "metrics.json").read_text())
    report = evaluation / "evaluation.json"
    protocols = json.loads(report.read_text()).get("protocols", {}) if report.is_file() else {}
    commit, modified = git.head(root)
    tags = {
        "weights": weights, "evaluation": ctx.manifests["evaluate"].digest, "stages": json.dumps(stages),
        "student": ctx.manifests["distill"].digest, "teacher": ctx.manifests["teacher"].digest,
        "trajectories": ctx.manifests["trajectories"].digest, "shards": ctx.manifests["shard"].digest,
        "given": json.dumps({name: digest for stage in graph.STAGES if stage.in_dvc
                             for name, digest in manifests.load(root / stage.output).given.items()}),
        "commit": commit or "", "modified": json.dumps(modified),
        "pipeline": next((file.sha256 for file in files if file.path == prefix + "pipeline.py"), "stock"),
        "results": json.dumps(results, sort_keys=True),
        "protocols": json.dumps(protocols, sort_keys=True),
    }  # fmt: skip
    name = ctx.settings["name"]
    return register_model.Registration(
        registry=registry, model=model_name(name), experiment=name, weights=weights, evaluation=tags["evaluation"],
        student=student, snapshot=snapshot, tags=tags, parent_run=parent_run(ctx),
        metrics=numbers({name: results[name] for name in ("student", "comparison", "floors") if name in results}),
        tag_snapshot=(lambda tag, files: git.tag_snapshot(root, tag, files)) if commit else None,
    )  # fmt: skip


def parent_run(ctx) -> str | None:
    """MLflow id of the pipeline run that this stage runs in."""
    for observer in getattr(ctx.observer, "observers", [ctx.observer]):
        if getattr(observer, "parent_id", None):
            return observer.parent_id
    return None

