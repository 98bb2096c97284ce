"""dvc.yaml in whatever form: what comes from outside is named in it and nothing else changes, or it is refused."""

import io

import pytest
from ruamel.yaml import YAML

from fewstep.util.errors import SettingsError
from fewstep.util.plain_data import from_yaml, to_yaml
from tasks.config.schema import Settings
from tasks.storage.dvc.dvc_yaml import NONE_GIVEN, sync_given
from tests.closure import ROOT
from tests.project import checkout_in

TEXT = (ROOT / "dvc.yaml").read_text()
PLAIN = from_yaml(TEXT)
OWN = Settings.model_validate({"distill": {"recipe": "my.yaml"}, "teacher": {"source": "/given/teacher"},
                               "data": {"source": "raw"}})  # fmt: skip
WANTED = {"images": "data/raw", "prompts": NONE_GIVEN, "teacher": "/given/teacher", "encoders": "/given/teacher",
          "recipe": "my.yaml"}  # fmt: skip


def reindented() -> str:
    yaml = YAML()
    yaml.indent(mapping=2, sequence=2, offset=0)
    stream = io.StringIO()
    yaml.dump(yaml.load(TEXT), stream)
    return stream.getvalue()


BLOCK = "  - given:\n" + "".join(f"      {name}: {NONE_GIVEN}\n" for name in WANTED)
FORMS = {
    "as generated": TEXT, "other indentation": reindented(), "without comments": to_yaml(PLAIN),
    "windows": TEXT.replace("\n", "\r\n"), "a byte-order mark": "\ufeff" + TEXT,
    "flow style": TEXT.replace(BLOCK, f"  - {{given: {{images: '{NONE_GIVEN}', \"teacher\": x, recipe: y}}}}\n"),
    "another order and a remark": TEXT.replace(BLOCK, """\
  - given:   # mine
      recipe: a
      teacher: b
      images: c
"""),
    "a file of variables before": TEXT.replace("vars:\n", "vars:\n  - given.yaml\n  - {other: 1}\n"),
    "a name of the user's own beside": TEXT.replace(BLOCK, BLOCK + "      mine: kept\n"),
    "quoted keys": TEXT.replace("vars:", '"vars":').replace("- given:", "- 'given':"),
}  # fmt: skip


def given(text: str) -> dict:
    return next(entry["given"] for entry in from_yaml(text)["vars"] if isinstance(entry, dict) and "given" in entry)


def remarks(text: str) -> list[str]:
    return [line.partition("#")[2] for line in text.splitlines() if "#" in line]


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_the_file_is_kept_true(tmp_path, form):
    path, text = tmp_path / "dvc.yaml", FORMS[form]
    assert given(text) and text != TEXT or form == "as generated"
    path.write_bytes(text.encode())
    assert sync_given(checkout_in(tmp_path), OWN)
    now = path.read_text(encoding="utf-8-sig")
    assert given(now) == {**given(text), **WANTED}
    assert {**from_yaml(now), "vars": 0} == {**from_yaml(text), "vars": 0}
    assert remarks(now) == remarks(text.removeprefix("\ufeff"))
    before = path.read_bytes()
    assert not sync_given(checkout_in(tmp_path), OWN) and path.read_bytes() == before
    assert sync_given(checkout_in(tmp_path), Settings())
    assert set(given(path.read_text()).values()) - {"kept"} == {NONE_GIVEN}


@pytest.mark.parametrize(("text", "said"), [
    ("stages: [", "not readable as YAML"), ("- stages", "not a dvc.yaml"), ("", "not a dvc.yaml"),
    (TEXT + "stages: {}\n", "duplicate key"), ("<<<<<<< HEAD\n" + TEXT, "not readable as YAML"),
    (TEXT.replace("- given:\n", "- given: &g\n").replace("metrics:\n", "meta: {a: *g}\nmetrics:\n"), "alias shares it"),
    (TEXT.replace(BLOCK, "  - given.yaml\n"), "the stage shard does not depend on the images data/raw"),
    (TEXT.replace("      - ${given.recipe}\n", ""), "the stage trajectories does not depend on the recipe my.yaml"),
    (TEXT.replace("${given.teacher}", "teachers"), "the stage teacher does not depend on the teacher /given/teacher"),
])  # fmt: skip
def test_a_file_that_would_not_see_a_change_is_refused_and_left_alone(tmp_path, text, said):
    path = tmp_path / "dvc.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        sync_given(checkout_in(tmp_path), OWN)
    assert str(caught.value).startswith(str(path)) and said in str(caught.value)
    assert "make dvc.yaml" in caught.value.hint
    assert path.read_text() == text


def test_paths_that_the_stages_name_themselves_are_enough(tmp_path):
    path = tmp_path / "dvc.yaml"
    text = TEXT.replace("vars:\n" + BLOCK, "").replace("${given.images}", "./data")
    text = text.replace("${given.teacher}", "/given/teacher").replace("${given.encoders}", "/given/teacher")
    text = text.replace("${given.prompts}", NONE_GIVEN)
    text = text.replace("${given.recipe}", "${recipes.mine}")   # which only DVC can resolve
    path.write_text(text)
    assert not sync_given(checkout_in(tmp_path), OWN) and path.read_text() == text
