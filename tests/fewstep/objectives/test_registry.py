"""A term is a folder with settings and a loss: what is found, what is refused, and that a new folder alone trains."""

import subprocess
import sys
from pathlib import Path

import pytest

from fewstep import objectives
from fewstep.objectives.registry import build, term_modules, term_names, term_settings
from fewstep.objectives.term import Term
from fewstep.recipes import load_recipe, parse_recipe, recipe_names
from fewstep.util.errors import SettingsError
from fewstep.util.source_code import SourceTree

ROOT = Path(__file__).parents[3]
SETTINGS = '''"""Settings of the term. Torch-free."""

from typing import Literal

from fewstep.objectives.term_settings import Needs, TermSettings


class {name}Settings(TermSettings):
    """The student's samples have the mean of the data."""

    term: Literal["{tag}"]
    power: float = 2.0

    @property
    def needs(self) -> Needs:
        return Needs(data=True)
'''
LOSS = '''"""The difference of two means."""

from fewstep.objectives.{folder}.settings import MeanMatchingSettings
from fewstep.objectives.term import Term


class MeanMatching(Term[MeanMatchingSettings]):
    """L = mean |E x_student - E x_data|^power."""

    def loss(self, step):
        samples, data = step.shared.generated, step.batch.data
        difference = samples.mean(0) - data.mean(0)
        return difference.abs().pow(self.settings.power).mean(), {{}}
'''
TRAINING = """
import sys
from pathlib import Path
import fewstep.objectives
fewstep.objectives.__path__.append(sys.argv[1])
from fewstep.recipes import load_recipe
from tests.fewstep.training.small import finish, run
figures = set()
finish(run(load_recipe(sys.argv[2]), Path(sys.argv[3])), lambda done, total, means: figures.update(means))
print(sorted(figures))
"""


def write_term(folder: Path, name: str = "MeanMatching", tag: str = "mean_matching") -> None:
    """The three files of a term."""
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text('"""The means of two distributions."""\n')
    (folder / "settings.py").write_text(SETTINGS.format(name=name, tag=tag))
    (folder / "loss.py").write_text(LOSS.format(folder=folder.name))


@pytest.mark.parametrize("name", term_names())
def test_every_folder_holds_one_term_that_bears_its_name(name):
    kind = term_settings(name)
    modules = term_modules(name)
    assert kind.__module__ == modules[0] and kind.__name__ == "".join(map(str.title, name.split("_"))) + "Settings"
    source = (ROOT / (modules[1].replace(".", "/") + ".py")).read_text()
    assert f"class {kind.__name__.removesuffix('Settings')}(Term[{kind.__name__}]" in source


def test_terms_of_recipes_are_built_from_their_folders():
    terms = [settings for name in recipe_names() for r in load_recipe(name).rounds for settings in r.terms]
    assert {settings.term for settings in terms} <= set(term_names())
    for settings in {type(settings): settings for settings in terms}.values():
        term = build(settings)
        assert isinstance(term, Term) and term.settings is settings and term.name == settings.term
        assert type(term).__module__ == term_modules(settings.term)[1]


def test_training_code_names_no_term():
    """By its imports the code of training holds no term; that of a term holds the term and what it uses."""
    folders = {f"fewstep/objectives/{name}/" for name in term_names()}
    for module in ("fewstep.training.api", "fewstep.recipes"):
        assert not [file for file in SourceTree().closure([module]) if file.startswith(tuple(folders))]
    assert "fewstep/objectives/mmd/loss.py" in SourceTree().closure([term_modules("mmd")[1]])


def test_settings_are_known_without_torch():
    code = "import sys; from fewstep.objectives.registry import term_names, term_settings\n"
    code += "[term_settings(name) for name in term_names()]; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_an_unknown_term_is_named_with_the_nearest():
    with pytest.raises(SettingsError, match="unknown term 'regresion'; did you mean 'regression'"):
        parse_recipe({"name": "r", "rounds": [{"terms": [{"term": "regresion"}]}]}, "r.yaml")
    with pytest.raises(ValueError, match="unknown term 'common'"):
        term_settings("common")


def test_a_new_folder_and_a_recipe_are_a_new_term_that_trains(tmp_path):
    write_term(tmp_path / "terms" / "mean_matching")
    recipe = tmp_path / "means.yaml"
    recipe.write_text("training: {batch: 8}\nrounds:\n  - terms: [{term: mean_matching, power: 1.5}]\n")
    command = [sys.executable, "-c", TRAINING, tmp_path / "terms", recipe, tmp_path / "run"]
    said = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stderr
    assert "student/mean_matching" in said.stdout


@pytest.mark.parametrize(
    ("tag", "more", "why"),
    [("other", "", r"must be Literal\['odd'\], got \['other'\]"),
     ("odd", "\nclass Second(OddSettings):\n    pass\n", "expected one subclass of TermSettings, got")],
)  # fmt: skip
def test_a_folder_that_is_no_term_is_refused(tag, more, why, tmp_path, monkeypatch):
    write_term(tmp_path / "odd", "Odd", tag)
    with open(tmp_path / "odd" / "settings.py", "a") as file:
        file.write(more)
    monkeypatch.setattr(objectives, "__path__", [*objectives.__path__, str(tmp_path)])
    for module in ("", ".settings"):
        monkeypatch.delitem(sys.modules, f"fewstep.objectives.odd{module}", raising=False)
    with pytest.raises(TypeError, match=why):
        term_settings("odd")
