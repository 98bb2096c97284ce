"""params.yaml in odd forms: what it says is what is taken, and `--set` changes what it names and nothing else."""

import pytest

from fewstep.util.errors import SettingsError
from fewstep.util.plain_data import from_yaml
from tasks.config import params_file
from tasks.config.outside import outside_paths
from tasks.config.preflight import validate
from tasks.config.schema import Settings


@pytest.fixture
def params(tmp_path):
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    return tmp_path / "params.yaml"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_a_file_in_another_encoding_is_read_and_changed(params, encoding):
    params.write_bytes("# größe\nteacher: {images: 1000}\n".encode(encoding))
    assert params_file.write_overrides(params, ["seed=1"]).teacher.images == 1000
    assert params.read_text().startswith("# größe\n") and params_file.load(params).seed == 1


def test_a_file_of_whole_sections_is_left_as_it_is_bytes_and_all(params):
    text = ("seed: 1\r\n" + "".join(f"{name}: {{}}\r\n" for name in params_file.watched() if name != "seed")).encode()
    params.write_bytes(text)
    assert params_file.write_overrides(params, []).seed == 1 and params.read_bytes() == text


@pytest.mark.parametrize(("text", "sets"), [
    ("evaluate: {classifier: &c {images: 5000}}\nteacher: {<<: *c, batch: 64}\n", ["evaluate.classifier.images=6000"]),
    ("evaluate: {steps: &s [1, 2], baseline_steps: *s, classifier: &c {images: 5000, lr: 0.1}}\n"
     "teacher: {<<: *c}\n", ["evaluate.classifier.lr=0.2"]),
])  # fmt: skip
def test_what_an_alias_shares_is_not_changed_in_silence(params, text, sets):
    params.write_text(text)
    with pytest.raises(SettingsError, match="an alias may share what is to be changed"):
        params_file.write_overrides(params, sets)
    assert params.read_text() == text
    params_file.write_overrides(params, ["evaluate.steps=[4]"])     # which is nobody else's
    read = from_yaml(params.read_bytes())
    assert read["evaluate"]["steps"] == [4] and read["teacher"]["images"] == 5000
    assert read["evaluate"].get("baseline_steps") in (None, [1, 2])


@pytest.mark.parametrize(("text", "said"), [
    ("name: 2020-01-31\n", "params.yaml: not readable as YAML: name: a value of type date"),
    ("teacher: {images: 2020-02-31}\n", "params.yaml: not readable as YAML: a value cannot be read"),
    ("teacher: &t\n  check: *t\n", "nested deeper than 64 levels"), ("1: 2\n", "the key 1 is no text"),
    ("teacher: {images: 0x" + "f" * 400 + "}\n", "teacher.images: a whole number of 1600 bits"),
    ("teacher: {images: .nan}\n", "teacher.images: expected an integer ≥ 1, got nan"),
    ("teacher: {lr: .inf}\n", "teacher.lr: expected a number > 0, got inf"), ("data: {? [a, b] : 1}\n", "is no text"),
    ('distill: {recipe: "\\ud800.yaml"}\n', "distill.recipe: half a character"), ('"\\e[31m": 1\n', r"'\x1b[31m'"),
])  # fmt: skip
def test_values_of_other_kinds_are_refused_in_one_line_with_their_place(params, text, said):
    params.write_text(text)
    with pytest.raises(SettingsError) as caught:
        params_file.load(params)
    assert "params.yaml" in str(caught.value) and said in str(caught.value) and str(caught.value).isprintable()


@pytest.mark.parametrize("value", ["\0", "x" * 300, "/a" * 3000, "~nobody-of-this-name/x", "loop", "loop/x"])
def test_values_that_no_path_can_be_are_refused_by_their_key(tmp_path, value):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "loop.yaml").symlink_to("loop.yaml")
    for key in ("teacher.source", "teacher.path", "distill.recipe"):
        section, name = key.split(".")
        settings = Settings.model_validate({section: {name: value + ".yaml" * (name == "recipe")}})
        with pytest.raises(SettingsError) as caught:
            validate(tmp_path, settings)
        assert str(caught.value).startswith(key) and str(caught.value).isprintable() and len(str(caught.value)) < 400


def test_a_path_with_characters_that_cannot_be_printed_is_taken_and_shown_escaped(tmp_path):
    settings = Settings.model_validate({"teacher": {"source": "a\u202fb\t"}})
    assert outside_paths(settings, tmp_path)["teacher"] == tmp_path / "a\u202fb\t"
    with pytest.raises(SettingsError) as caught:
        validate(tmp_path, settings)
    assert "a\\u202fb\\t: no such teacher folder" in str(caught.value)
