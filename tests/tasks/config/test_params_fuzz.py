"""Whatever params.yaml holds is taken as it says, or refused with an error that names it: never another exception."""

import json
import tempfile
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from fewstep.util.errors import CorruptData, SettingsError
from fewstep.util.hashing import canonical_json, sha256_json
from fewstep.util.plain_data import checked
from tasks.config import params_file
from tasks.config.preflight import validate
from tasks.config.schema import Settings
from tasks.engine import graph
from tests.closure import ROOT
from tests.fuzzing import ODD, ODD_TEXTS, TIMEOUT, bounded, texts

pytestmark = TIMEOUT

WHOLE = Settings().model_dump(mode="json")
SHORT = params_file.read(ROOT / "params.yaml")
OWN = b"""# mine
name: own   # a remark
teacher: &t
  source: train
  images: 1000    # few
  check: {samples: 64, steps: 4}
evaluate:
  steps: &steps [1, 2]
  baseline_steps: *steps
  extractors: {}
distill: {recipe: "kd", images: 1e3}
seed: 0x10
"""
MERGED = b"""evaluate: {classifier: &c {images: 5000}}
teacher: {<<: *c, batch: 64}
"""
PARAMS = texts(WHOLE, SHORT, originals=((ROOT / "params.yaml").read_bytes(), OWN, MERGED), yaml=True)
KEYS = ["seed", "name", "teacher.images", "teacher.check.samples", "evaluate.steps", "distill.recipe", "data.source",
        "evaluate", "evaluate.classifier.images", "x", "..", "", "teacher.", "distill.images"]  # fmt: skip
VALUES = st.sampled_from(["1", "[1]", "kd", "null", "", "{", "&a [*a]", "2020-01-01", "2020-02-31", "1e3", "\0", "'",
                          "{a: 1, a: 2}", "[[" * 200, "!!int x", "9" * 5000, "\ud800"])  # fmt: skip
ASSIGNMENT = st.tuples(st.sampled_from(KEYS), VALUES | st.sampled_from(ODD_TEXTS) | st.text(max_size=5)).map("=".join)
SETS = st.lists(ASSIGNMENT | st.text(max_size=8), max_size=2)


def plain(data):
    """The data if it is plain and has no NaN and infinity, for which YAML and JSON have different words; else None."""
    try:
        return json.loads(canonical_json(checked(data, 10**6)))
    except ValueError:
        return None


@bounded(150)
@given(PARAMS, SETS)
def test_params_are_taken_as_they_say_or_refused_by_name(written, sets):
    text, said = written
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "params.yaml")
        Path(folder, "dvc.yaml").write_text("stages: {}\n")
        path.write_bytes(text)
        try:
            read = params_file.read(path)
            assert plain(said) is None or canonical(read) == canonical(plain(said) or {})
            settings = params_file.load(path)
        except SettingsError as error:
            assert all(line.isprintable() and "params.yaml" in line for line in str(error).splitlines())
        else:
            usable(settings, Path(folder))
        try:
            changed = params_file.write_overrides(path, sets)
        except (SettingsError, CorruptData) as error:
            assert all(line.isprintable() for line in str(error).splitlines()) and path.read_bytes() == text
            return
        assert params_file.load(path) == changed
        if not sets:
            now = params_file.read(path)
            assert canonical({name: now[name] for name in read}) == canonical(read)
            assert all(now[name] in ({}, 0) for name in now if name not in read)


def canonical(data) -> str:
    try:
        return canonical_json(data)
    except ValueError:      # NaN, of which no two are equal
        return repr(data)


def usable(settings: Settings, root: Path) -> None:
    """What follows from settings that were taken: the checks before any work, and what each stage makes of them."""
    assert len(sha256_json(settings.model_dump(mode="json"))) == 64
    try:
        validate(root, settings)
        for stage in graph.STAGES:
            sha256_json(stage.resolve(settings).model_dump(mode="json"))
    except (SettingsError, CorruptData) as error:
        assert str(error) and all(line.isprintable() for line in str(error).splitlines())


@bounded(60)
@given(ODD, st.sampled_from(sorted(WHOLE)))
def test_an_odd_value_in_place_of_a_section(value, section):
    with tempfile.TemporaryDirectory() as folder:
        try:
            params_file.apply({section: value}, [f"{section}.a=1"])
        except SettingsError as error:
            assert str(error)
        usable(Settings(), Path(folder))
