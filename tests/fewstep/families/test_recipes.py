"""Recipes on the networks of families: a handful of cells of the table, marked slow all; refusals before any work."""

import pytest
import torch

from fewstep.diffusion.conditions import TensorTable
from fewstep.networks.extra_inputs import add_inputs
from fewstep.networks.folding import fold_additions
from fewstep.objectives.common.condition_summary import summary_of
from fewstep.objectives.common.feature_heads import FeatureHeads
from fewstep.recipes import recipe_names
from fewstep.students.student import make_student
from fewstep.students.student_settings import GuidanceInput, StudentSettings
from fewstep.teachers import inspect_teacher
from fewstep.training.distillation import Distillation
from fewstep.training.recipe_fit import require_recipe_of_folder
from fewstep.training.run_options import RunOptions
from fewstep.util.errors import SettingsError
from tests.fewstep.families.pipelines import KINDS
from tests.fewstep.families.recipe_matrix import DOCUMENT, NAMES, distilled, quick, refusal, teacher_of
from tests.fewstep.families.teachers import batch, teacher

HANDFUL = [
    ("dmd2", "sd3"), ("ladd", "flux"), ("pi-flow", "wan"), ("ctm", "sd"), ("boot", "dit"), ("lcm-lora", "sana"),
    ("laptop-diff", "pixart"), ("add", "cogvideox"), ("scm", "ltx"), ("mmd-ddm", "stable_audio"), ("lcm", "sdxl"),
]  # fmt: skip
REFUSED = {
    ("swiftbrush-v2", "sd"): "needs classes",
    ("msd", "sd3"): "share classes",
    ("msd", "dit"): "beside others",
    ("plug-and-play", "flux"): "takes no guide",
    ("slimflow", "wan"): "depth only",
}


@pytest.mark.parametrize(("recipe", "kind"), HANDFUL)
def test_a_recipe_distils_a_family(recipe, kind):
    distilled(recipe, kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_distils_every_family_or_says_why_not(recipe, kind):
    if refusal(recipe, kind) is None:
        distilled(recipe, kind)


@pytest.mark.parametrize(("recipe", "kind"), REFUSED)
def test_what_cannot_be_is_refused_before_any_work(tmp_path, recipe, kind):
    with pytest.raises(SettingsError, match=f"recipe {recipe} does not serve this teacher: .*{REFUSED[recipe, kind]}"):
        Distillation(quick(recipe), teacher_of(kind), RunOptions(64, 0, tmp_path), data=object())
    assert not list(tmp_path.iterdir())


def test_the_document_has_every_recipe_and_family_and_the_reasons():
    text = DOCUMENT.read_text()
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ") and " ✓" in line]
    assert [row[0].removeprefix("| ") for row in rows] == recipe_names() and {len(row) for row in rows} == {13}
    for (recipe, kind), reason in REFUSED.items():
        letter = rows[recipe_names().index(recipe)][1 + list(NAMES).index(kind)].removesuffix(" |")
        assert next(line for line in text.splitlines() if line.startswith(f"* {letter}: ")).count(reason) == 1


@pytest.mark.parametrize(("recipe", "kind"), [("swiftbrush-v2", "sdxl"), ("msd", "dit"), ("slimflow", "flux")])
def test_a_folder_is_refused_before_its_weights_are_read(tmp_path, recipe, kind):
    KINDS[kind].save(tmp_path)
    info = inspect_teacher(tmp_path)
    (tmp_path / info.part / "diffusion_pytorch_model.safetensors").unlink()
    require_recipe_of_folder(quick("dmd2"), info)
    with pytest.raises(SettingsError, match=f"recipe {recipe} does not serve this teacher"):
        require_recipe_of_folder(quick(recipe), info)


def test_a_scale_that_the_network_embeds_is_the_students_input_and_is_sampled_at_where_folded():
    plain = teacher("flux")
    settings = StudentSettings(guidance_input=GuidanceInput(low=1, high=5, sample=2))
    student = make_student(plain, settings).denoiser.eval()
    assert {n for n, _ in student.named_parameters()} == {n for n, _ in plain.named_parameters()}
    x, t, condition = batch(plain)
    given = {scale: student.predict(x, t, condition, scale=scale).output for scale in (2.0, 3.5)}
    assert torch.equal(given[3.5], plain.predict(x, t, condition).output)  # what the pipeline takes unless told
    assert not torch.equal(given[2.0], given[3.5])
    folded = fold_additions(add_inputs(student, student.inputs))
    assert not folded.inputs and folded.adapter.call.guidance_scale == 2.0
    assert torch.equal(folded.predict(x, t, condition).output, given[2.0])


def test_the_summary_of_a_prompt_is_that_of_the_tokens_its_mask_leaves():
    tokens, mask = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0)), torch.ones(3, 5, dtype=torch.int64)
    mask[0, 2:] = 0
    plain = teacher("pixart")
    plain.take(TensorTable({"encoder_hidden_states": tokens, "encoder_attention_mask": mask}, torch.tensor([2, 2])))
    found = summary_of(plain, torch.tensor([0, 1]))
    wanted = torch.stack([tokens[0, :2].mean(0), tokens[1].mean(0)])
    wanted = (wanted - wanted.mean(1, keepdim=True)) / wanted.std(1, keepdim=True)
    torch.testing.assert_close(found, wanted)
    assert summary_of(teacher("sdxl"), torch.tensor([0, 1, 3])).shape == (3, 64 + 32 + 6)
    with pytest.raises(SettingsError, match="rows of a table"):
        summary_of(teacher("dit"), torch.tensor([0]))


def test_heads_start_alike_for_all_summaries_and_learn_to_tell_them():
    heads = FeatureHeads([4], 8, 0, labels=6)
    feature, summary = torch.randn(2, 4, 3, 3), torch.randn(2, 6)
    assert torch.equal(heads([feature], summary), heads([feature]))
    with torch.no_grad():
        heads.embedding[0].normal_(generator=torch.Generator().manual_seed(0))
    assert not torch.allclose(heads([feature], summary), heads([feature], summary.flip(0)))
