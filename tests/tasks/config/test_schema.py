"""params.yaml: the stable sections, --set and --params, nothing written that does not hold, every key is read."""

from __future__ import annotations

from pathlib import Path
from types import NoneType, UnionType
from typing import get_args

import pytest

from fewstep.util.config import Strict, parse
from fewstep.util.errors import SettingsError
from tasks.config import params_file, schema
from tasks.config.outside import outside_paths
from tasks.config.preflight import validate
from tasks.engine.graph import STAGES
from tests.closure import ROOT

ISSUE = """
name: digits
seed: 0
profile: local
data: {source: digits}
teacher: {source: train}
encode: {dtype: float32}
trajectories: {count: 8192, solver: dpmsolver++, steps: 16, guidance: 1.0}
distill: {recipe: kd, images: 200000}
evaluate: {samples: 5000, steps: [1, 2, 4], baseline_steps: [1, 2, 4, 8, 16]}
register: {promote: first}
"""


@pytest.fixture
def params(tmp_path) -> Path:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    path = tmp_path / "params.yaml"
    path.write_text("# mine\n" + ISSUE)
    return path


def test_the_stable_sections_are_accepted_as_they_stand_in_the_readme(params):
    loaded = params_file.load(params)
    assert (loaded.name, loaded.trajectories.solver, loaded.evaluate.baseline_steps) \
        == ("digits", "dpmsolver++", (1, 2, 4, 8, 16))
    assert params_file.load(ROOT / "params.yaml").profile == "local"


def test_set_changes_one_value_and_keeps_comments(params):
    sets = ["distill.images=1e3", "distill.images=5000", "evaluate.steps=[1, 2]"]
    changed = params_file.write_overrides(params, sets)
    assert changed.distill.images == 5000 and changed.evaluate.steps == (1, 2)
    assert params.read_text().startswith("# mine\n") and params_file.load(params) == changed


def test_params_replaces_the_file_and_set_comes_on_top(params, tmp_path):
    other = tmp_path / "other.yaml"
    other.write_text("name: other\ndistill: {recipe: ect}\n")
    got = params_file.write_overrides(params, ["seed=3"], other)
    assert (got.name, got.seed, got.distill.recipe) == ("other", 3, "ect")
    written = params_file.read(params)
    assert set(params_file.watched()) <= set(written)     # DVC knows no defaults
    assert other.read_text() == "name: other\ndistill: {recipe: ect}\n"


def test_without_a_change_the_file_is_not_touched(params):
    def written():  # reading moves the access time, so only what a write moves is compared
        found = params.stat()
        return found.st_ino, found.st_mtime_ns, found.st_ctime_ns

    before = written()
    params_file.write_overrides(params, [])
    assert written() == before


@pytest.mark.parametrize(("sets", "message"), [
    (["trajectories.solvr=ddim"], "trajectories.solvr: unknown key; did you mean 'solver'?"),
    (["distill.images=many"], "distill.images: expected an integer ≥ 1, got 'many'"),
    (["distill.images=-1"], "distill.images: expected an integer ≥ 1, got -1"),
    (["distill.recipe=kdd"], "unknown recipe 'kdd'; did you mean 'kd'?"),
    (["distill.recipe=none.yaml"], "none.yaml does not exist"),
    (["teacher.source=/no/such/folder"], "/no/such/folder: no such teacher folder"),
    (["data.source=raw"], "no such folder"),
    (["data.prompts=none.txt"], "none.txt: no such file of prompts"),
    (["profile=cluster"], "the profile 'cluster' is not available yet"),
    (["data.split.train=0.9"], "the shares must add up to 1"),
    (["teacher.source=a", "teacher.path=b"], "give one of them"),
    (["distill"], "--set 'distill': expected a.b=value"),
    (["seed.deeper=1"], "'seed' holds a value, not a section"),
    (["distill.images=[1"], "the value is not readable as YAML"),
])
def test_what_does_not_hold_is_refused_and_nothing_is_written(params, sets, message):
    before = sorted((path, path.stat().st_mtime_ns) for path in params.parent.rglob("*"))
    with pytest.raises(SettingsError) as caught:
        params_file.write_overrides(params, sets)
    assert message in str(caught.value)
    assert sorted((path, path.stat().st_mtime_ns) for path in params.parent.rglob("*")) == before


def test_unreadable_files_are_named(tmp_path):
    cases = {"a: [": "not readable as YAML", "- 1": "expected sections", "seed: 1\nseed: 2": "duplicate"}
    for text, message in cases.items():
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(SettingsError, match=message):
            params_file.load(tmp_path / "p.yaml")
    with pytest.raises(SettingsError, match="no such file"):
        params_file.load(tmp_path / "absent.yaml")


def test_both_spellings_of_a_given_teacher(tmp_path):
    for section in ({"source": "t"}, {"path": "t"}, {"source": "t", "path": "t"}):
        loaded = parse(schema.Settings, {"teacher": section}, "p")
        assert outside_paths(loaded, tmp_path)["teacher"] == tmp_path / "t"
    assert outside_paths(schema.Settings(), tmp_path) == {"images": None, "prompts": None, "teacher": None,
                                                          "encoders": None, "recipe": None}


def test_a_recipe_whose_states_are_not_kept_is_refused(tmp_path):
    (tmp_path / "mine.yaml").write_text("summary: states\nreference: {title: t}\nrounds:\n"
                                        "  - terms:\n      - {term: regression, at: states}\n")
    loaded = parse(schema.Settings, {"distill": {"recipe": "mine.yaml"}, "trajectories": {"keep": [0]}}, "p")
    with pytest.raises(SettingsError, match="recipe mine needs the states all"):
        validate(tmp_path, loaded)


@pytest.mark.parametrize(("section", "message"), [
    ({"trajectories": {"solver": "dpmsolver"}}, r"unknown solver 'dpmsolver'; did you mean 'dpmsolver\+\+'"),
    ({"trajectories": {"solver": "ddpm"}}, "draws noise on the way"),
    ({"evaluate": {"solvers": ["ddim", "heum"]}}, "unknown solver 'heum'; did you mean 'heun'"),
])
def test_solvers_are_checked_before_any_work(tmp_path, section, message):
    with pytest.raises(SettingsError, match=message):
        validate(tmp_path, parse(schema.Settings, section, "p"))


def test_as_many_guidance_scales_as_conditions_are_asked_for_before_any_work(tmp_path):
    (tmp_path / "mine.yaml").write_text("rounds:\n  - terms:\n"
                                        "      - {term: output_matching, guidance: [1.5, 3], source: pairs}\n")
    several = {"trajectories": {"guidance": [1.5, 3]}, "evaluate": {"guidance": [1.5, 3]},
               "distill": {"recipe": "mine.yaml"}}  # fmt: skip
    loaded = parse(schema.Settings, {**several, "teacher": {"groups": [[0, 1], [2, 3]]}}, "p")
    validate(tmp_path, loaded)
    with pytest.raises(SettingsError, match="mine: guidance has 2 scales, 1.5, 3; by teacher.groups a label has 1"):
        validate(tmp_path, parse(schema.Settings, {"distill": several["distill"]}, "p"))
    with pytest.raises(SettingsError, match="teacher.groups: groups are nested or have no class in common"):
        validate(tmp_path, parse(schema.Settings, {"teacher": {"groups": [[0, 1], [1, 2]]}}, "p"))
    with pytest.raises(SettingsError, match="learnt in the share of class_dropout, which is 0"):
        parse(schema.Settings, {"teacher": {"groups": [[0, 1]], "class_dropout": 0.0}}, "p")
    with pytest.raises(SettingsError, match="trajectories.guidance has 3 scales"):
        validate(tmp_path, loaded.model_copy(update={"trajectories": schema.Trajectories(guidance=(1, 2, 3))}))


OTHER_VALUES = {  # of every key of params.yaml, and which stages' resolved settings it changes
    "name": ("other", "register"), "data.source": ("raw", "shard"), "data.prompts": ("p.txt", "shard"),
    "data.conditions": ("image", "shard"), "data.size": (16, "shard"),
    "data.sizes": (["32x32", "48x32"], "shard"),
    "data.channels": (3, "shard"), "data.max_corrupt_share": (0.5, "shard"),
    "data.split": ({"train": 0.5, "fit": 0.25, "test": 0.25}, "shard"), "data.record_size": (17, "shard"),
    "data.records_per_shard": (3, "shard"),
    **{f"teacher.{name}": (value, "teacher") for name, value in {
        "parts": 2,
        "images": 999, "batch": 9, "lr": 0.5, "channels": [8], "layers": 3, "class_dropout": 0.5, "groups": [[0, 1]],
        "ema": 0.5, "check.samples": 99, "check.steps": 9, "check.max_distance_ratio": 9.0,
        "check.max_terminal_snr": 0.5, }.items()},
    **{f"teacher.finetune.{name}": (value, "teacher") for name, value in {
        "images": 999, "batch": 9, "parts": 2, "lr": 0.5, "dropout": 0.5, "ema": 0.5, "precision": "bfloat16"}.items()},
    "teacher.source": ("saved", "encode teacher reference"), "teacher.path": ("saved", "encode teacher reference"),
    "teacher.variant": ("fp16", "encode teacher"),      # of a given teacher, as all of encode
    **{f"encode.{name}": (value, "encode") for name, value in {
        "height": 64, "width": 64, "num_frames": 9, "max_sequence_length": 9, "negative_prompt": "blurred",
        "arguments": {"clip_skip": 1}, "dtype": "bfloat16", "batch": 9, "max_truncated_share": 0.5,
        "max_bytes": 9}.items()},
    **{f"trajectories.{name}": (value, "trajectories") for name, value in {
        "count": 99, "solver": "ddim", "steps": 9, "guidance": 2.0, "keep": "all", "record_size": "auto",
        "records_per_shard": 9, "dtype": "bfloat16", "precision": "bfloat16", "compile": False}.items()},
    **{f"distill.{name}": (value, "distill") for name, value in {
        "steps": 1, "batch": 9, "parts": 2, "accumulate": 2, "lr": 0.5, "schedule": "cosine", "warmup": 0.5,
        "clip": 3.0,
        "ema": 0.5, "precision": "float32", "recipe": "ect", "images": 999, "export": "network",
        "preset": "published", "frozen": "bfloat16", "guided_calls": "sequential",
        "moments": "8bit"}.items()},
    **{f"evaluate.{name}": (value, "baselines evaluate") for name, value in {
        "samples": 99, "batch": 9, "seed": 9, "extractors": {"clip": "0" * 64}}.items()},
    "evaluate.guidance": (2.0, "baselines"),
    "evaluate.steps": ([3], "evaluate"), "evaluate.grid": (3, "evaluate"),
    "evaluate.baseline_steps": ([3], "baselines"), "evaluate.solvers": (["ddim"], "baselines"),
    **{f"evaluate.classifier.{name}": (value, "classifier") for name, value in {
        "images": 99, "batch": 9, "lr": 0.5, "features": 3}.items()},
    **{f"register.{name}": (value, "register") for name, value in {
        "promote": "never", "samples": 99, "floors.max_distance_ratio": 0.1, "floors.min_class_accuracy": 0.1,
        "floors.min_recall": 0.1,
        "floors.min_retrieval": 0.1, "floors.min_text_alignment": 0.1,
        "floors.max_copies": 0.1, "gate.level": 0.1, "gate.power": 0.5, "gate.cheaper": 0.5,
        "gate.margins.kid": 0.5, "gate.margins.class_kid": 0.5, "gate.margins.class_accuracy": 0.5,
        "gate.margins.accuracy_in_class": 0.5, "gate.margins.retrieval": 0.5, "gate.margins.retrieval_in_group": 0.5,
        "gate.margins.copies": 0.5, "gate.margins.repeats": 0.5,
        "gate.approval_hours": 1.0}.items()},
    "seed": (5, ""),                            # enters every key by itself
    "profile": ("server", ""),                  # where a run talks to: flows.runs.profiles
    "trajectories.workers": (2, ""),            # changes no byte: Context.workers
    "compute.processes": (2, ""),               # changes no byte: Context.processes
    **{f"stack.{name}": (value, "") for name, value in {     # no run reads it: flows.stack.render
        "image": "registry.example.org/team/fewstep", "namespace": "team", "bucket": "store", "region": "us-west-2",
        "database_host": "db.example.com", "pool": "slow", "workers": 9, "storage_gib": 9, "grace_seconds": 999,
        "worker.gpus": 8, "worker.cpus": 9, "worker.memory_gib": 9, "worker.disk_gib": 99}.items()},
    "compute.nodes": (2, ""),                   # changes no byte: Context.nodes
    "compute.reshard": (True, ""),              # the same, said in the log: Context.reshard
    "compute.parallel": ("shard", ""),          # changes bytes through the fingerprint alone: Context.parallel
    "compute.on": ("processes", ""),            # changes no byte, like what follows: flows.executors
    "compute.side_by_side": (True, ""),         # changes no byte: flows.executors.left_over
    "compute.launch": ("ssh node python -m tasks.unit", ""),
    "compute.units.cpus": (2, ""), "compute.units.gpus": (1, ""), "compute.units.most": (2, ""),
    "distill.checkpoint_images": (64, ""),      # changes no byte: Context.checkpoint_images
    "distill.ema_device": ("cpu", ""),          # changes no byte: Context.ema_device
    "distill.gradient_checkpointing": (True, ""),   # changes no byte, but for forward derivatives: see below
}  # fmt: skip


def leaves(model: type[Strict], prefix: str = "") -> list[str]:
    """Dotted names of all settings below a model; a split counts as one, since its shares depend on each other."""
    names = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, UnionType) and len(set(get_args(kind)) - {NoneType}) == 1:
            (kind,) = set(get_args(kind)) - {NoneType}
        nested = isinstance(kind, type) and issubclass(kind, Strict) and kind is not schema.Split
        names += leaves(kind, f"{prefix}{name}.") if nested else [prefix + name]
    return names


def plain(name: str) -> dict:
    """The settings that a key is changed in: with a given teacher where it is about one, both sides where it is one, a
    recipe whose paper sets something where that is asked for."""
    if name.startswith("teacher.finetune."):
        return {"teacher": {"source": "saved", "finetune": {}}}
    if name == "distill.preset":
        return {"distill": {"recipe": "dmd2"}}
    if name == "teacher.variant" or name.startswith("encode."):
        sides = {"height": 32, "width": 32} if name in ("encode.height", "encode.width") else {}
        return {"teacher": {"source": "saved"}, "encode": sides}
    if name == "compute.nodes":
        return {"compute": {"on": "slurm"}}
    return {}


def changed(name: str, value: object) -> schema.Settings:
    """Settings with one key changed; of `plain` ones."""
    sections, data = name.split("."), plain(name)
    place = data
    for section in sections[:-1]:
        place = place.setdefault(section, {})
    place[sections[-1]] = value
    return parse(schema.Settings, data, "p")


def test_every_key_is_listed_with_another_value():
    assert sorted(OTHER_VALUES) == sorted(leaves(schema.Settings))


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_key_enters_the_settings_of_the_stages_that_read_it(name):
    """A key nobody reads is a promise nobody keeps. That stages read what they are given: test_stage_settings.py."""
    value, stages = OTHER_VALUES[name]
    before, after = parse(schema.Settings, plain(name), "p"), changed(name, value)
    assert before != after
    differing = [stage.name for stage in STAGES if stage.resolve(before) != stage.resolve(after)]
    wanted = stages.split()
    if name == "distill.recipe":
        wanted = ["trajectories", "distill"]    # ect needs no pairs
    assert differing == wanted


@pytest.mark.parametrize("on", [None, "local", "processes"])
def test_nodes_of_a_training_need_what_starts_their_processes(on):
    with pytest.raises(SettingsError, match="nodes: 2 needs on: slurm, ray, pool:NAME or command"):
        parse(schema.Settings, {"compute": {"nodes": 2, "on": on}}, "p")


@pytest.mark.parametrize(("difference", "enters"), [(0.0, True), (0.1, False)])
def test_checkpointing_enters_the_settings_where_a_recipe_differentiates_forwards(tmp_path, difference, enters):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(f"rounds:\n  - terms:\n      - {{term: continuous_consistency, difference: {difference}}}\n")
    stage = next(stage for stage in STAGES if stage.name == "distill")
    plain, saving = (stage.resolve(parse(schema.Settings, {"distill": {"recipe": str(recipe), **more}}, "p"))
                     for more in ({}, {"gradient_checkpointing": True}))  # fmt: skip
    assert (plain.model_dump() != saving.model_dump()) == enters and "gradient_checkpointing" not in plain.model_dump()
