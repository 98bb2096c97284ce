"""Models that would fool a single figure: each is refused, and for what it does. Real digits, the real classifier."""

import numpy as np
import pytest
import torch

from fewstep.data.images import load_split
from fewstep.data.medium import to_bytes
from fewstep.metrics.comparison.contrasts import contrasts
from fewstep.metrics.comparison.noninferiority import judge
from fewstep.metrics.evaluator import Examination
from fewstep.metrics.extractors.extractor import load_extractor
from fewstep.metrics.observed import Observed
from tasks.config.schema import Evaluate, Gate
from tests.tasks.stages.evaluation_world import World

SAMPLES = 1200


class Contest:
    """A champion that draws from a Gaussian of each class: a fair model, a little blurred, that copies nothing."""

    def __init__(self, root):
        world = World(root)
        world.run("shard")
        world.run("classifier")
        self.train, test = (load_split(world.folder("shard"), split) for split in ("train", "test"))
        self.examination = Examination(load_extractor(world.folder("classifier")), test, self.train, samples=SAMPLES,
                                       seed=5, batch=500, reference_digest="0" * 64, num_classes=10)  # fmt: skip
        self.asked = self.examination.plan.classes.numpy()
        self.images = {label: self._of_class(label) for label in range(10)}
        self.champion = self.gaussian(0)
        self.of_champion = self.seen(self.champion)

    def _of_class(self, label: int) -> np.ndarray:
        return self.train.images(torch.from_numpy(np.flatnonzero(self.train.labels.numpy() == label))).numpy()

    def gaussian(self, seed: int, asked=None) -> np.ndarray:
        """Samples of N(mean, covariance) of each class asked for, shrunk a little, from keyed noise."""
        out, chance = np.empty((SAMPLES, 1, 8, 8), np.float32), np.random.default_rng(seed)
        asked = self.asked if asked is None else asked
        for label, images in self.images.items():
            flat, rows = images.reshape(len(images), -1), np.flatnonzero(asked == label)
            covariance = np.cov(flat.T) + 1e-3 * np.eye(64)
            drawn = chance.multivariate_normal(flat.mean(0), covariance, size=len(rows), method="cholesky")
            out[rows] = drawn.reshape(-1, 1, 8, 8)
        return out

    def from_training(self, exemplars: int | None = None) -> np.ndarray:
        """Training images of the class asked for; only the first few with `exemplars`."""
        out, chance = np.empty((SAMPLES, 1, 8, 8), np.float32), np.random.default_rng(9)
        for label, images in self.images.items():
            rows = np.flatnonzero(self.asked == label)
            out[rows] = images[:exemplars][chance.integers(len(images[:exemplars]), size=len(rows))]
        return out

    def seen(self, images: np.ndarray) -> Observed:
        return self.examination.images.observe(to_bytes(torch.from_numpy(images)))

    def judge(self, candidate: np.ndarray, champion: Observed | None = None):
        rules, reference = Gate(), self.examination.images.observed
        found = contrasts(self.seen(candidate), champion or self.of_champion, reference, self.asked,
                          self.examination.images.test.labels.numpy(), rules.margins.model_dump(),
                          tuple(self.examination.images.test.class_names))  # fmt: skip
        return judge(found, rules.level, rules.power)


@pytest.fixture(scope="module")
def contest(tmp_path_factory) -> Contest:
    return Contest(tmp_path_factory.mktemp("contest"))


def worse(judgement) -> set[str]:
    return {found.contrast.name for found in judgement.having("worse")}


def test_a_fair_model_is_not_called_worse_and_a_sharper_one_is_better(contest):
    judgement = contest.judge(contest.gaussian(1))
    assert not worse(judgement) and not judgement.superior
    assert contest.judge(0.9 * contest.champion).superior  # the champion's covariance is a little too wide


def test_a_champion_that_draws_the_middle_of_each_class_gives_way_to_a_fair_model(contest):
    """It is recognised more often than real images are and copies nothing, which nobody need equal; nor is a model
    promoted for being recognised more often than they are."""
    means = np.stack([contest.images[label].mean(0) for label in contest.asked])
    middle, fair = (share * contest.champion + (1 - share) * means for share in (0.3, 0.9))
    judgement = contest.judge(fair, contest.seen(middle))
    recognised = next(found for found in judgement.findings if found.contrast.metric == "class_accuracy")
    assert recognised.contrast.champion > recognised.contrast.real.figure
    assert recognised.contrast.excess > recognised.contrast.margin and recognised.verdict == "within"
    assert judgement.superior, judgement.reasons()
    back = contest.judge(middle, contest.seen(fair))
    assert "kid" in worse(back)
    assert not any(found.contrast.metric == "class_accuracy" for found in back.having("better"))


def test_the_default_number_of_samples_gives_the_power_asked_for_in_every_figure(contest):
    """Two models of one distribution that make of the same noise images that correlate by 0.8, as students of one
    teacher do."""
    means = np.stack([contest.images[label].mean(0) for label in contest.asked])
    equal = means + 0.8 * (contest.champion - means) + 0.6 * (contest.gaussian(1) - means)
    judgement, rules = contest.judge(equal), Gate()
    wanted = [found.contrast.n_for(rules.level, rules.power) / found.contrast.n for found in judgement.findings]
    assert max(wanted) * SAMPLES < Evaluate().samples


def test_a_model_that_memorised_the_training_set_is_refused_for_copying(contest):
    judgement = contest.judge(contest.from_training())
    assert judgement.findings[0].contrast.name == "kid" and judgement.findings[0].contrast.p_better() < 0.05, \
        "by the distance alone it would be promoted"
    assert worse(judgement) == {"copies"}
    assert judgement.reasons()[0].startswith("copies: worse than the champion beyond the margin of 0.05: 1 against 0.0")


def test_a_model_that_collapsed_to_a_few_modes_is_refused_for_repeating_itself(contest):
    judgement = contest.judge(contest.from_training(exemplars=3))
    assert {"repeats", "kid"} <= worse(judgement)
    assert next(found for found in judgement.findings if found.contrast.name == "repeats").contrast.candidate > 0.3


def test_a_model_that_is_broken_in_one_class_is_refused_for_that_class(contest):
    images = contest.champion.copy()
    images[contest.asked == 7] = np.random.default_rng(0).normal(size=images[contest.asked == 7].shape)
    images[contest.asked != 7] *= 0.9  # and better in all others
    judgement = contest.judge(images)
    named = {name for name in worse(judgement) if " of class " in name}
    assert named == {"kid of class 7", "class_accuracy of class 7"}
    assert judgement.having("better") and not judgement.superior


def test_a_model_with_swapped_labels_is_refused_for_the_two_classes(contest):
    asked = contest.asked.copy()
    asked[contest.asked == 3], asked[contest.asked == 8] = 8, 3
    judgement = contest.judge(contest.gaussian(0, asked))
    assert "kid" not in worse(judgement)  # all samples together are as good as ever
    assert {name for name in worse(judgement) if " of class " in name} == {
        f"{figure} of class {label}" for figure in ("kid", "class_accuracy") for label in (3, 8)}  # fmt: skip


def test_too_few_samples_are_a_refusal_of_their_own(contest):
    few = np.arange(60)
    part = Contest.__new__(Contest)
    part.__dict__ = {**contest.__dict__, "asked": contest.asked[few]}
    judgement = part.judge(contest.gaussian(1)[few], contest.seen(contest.champion[few]))
    assert judgement.having("too few samples") and not judgement.having("worse")
    said = judgement.reasons()[-1]
    assert "too little power" in said and "times as many samples (register.samples)" in said
