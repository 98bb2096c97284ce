"""The samples of one part of a step's batch: real data or cached teacher outputs, their labels, guidance scales."""

from functools import cached_property

import torch
from torch import Tensor

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.guidance import Scales, told
from fewstep.objectives.term_settings import Needs
from fewstep.training.step.batches import Source, Sources
from fewstep.training.step.keyed_draws import PartDraws
from fewstep.util.device import sent
from fewstep.util.errors import SettingsError


class StepBatch:
    """What a term reads in one step.

    Args:
        sources: where samples come from.
        draws: of this part of the batch.
        student: says which labels and scales there are.
        labelled_by: whose labels the batch has; None (given: as for a term that reads neither): they are drawn.
    """

    def __init__(self, sources: Sources, draws: PartDraws, student: Denoiser, labelled_by: Source | None = None):
        self._sources, self._draws, self._student = sources, draws, student
        self.labelled_by = labelled_by or sources.read_by(Needs())

    @cached_property
    def _data(self) -> tuple[Tensor, Tensor | None]:
        x, y = self._draws.whole.once("data", lambda: self._sources.data_batch(self._draws.whole))
        return x[self._draws.part], None if y is None else y[self._draws.part]

    @property
    def data(self) -> Tensor:
        """Real samples (size, ...)."""
        return self._data[0]

    def examples(self, count: int) -> tuple[Tensor, Tensor | None]:
        """The first `count` real samples (count, ...), with labels (count,) or None: the same at every step."""
        read = self._sources.examples
        return self._draws.whole.here(f"examples {count}", lambda draws: read(draws.seed, count))

    @cached_property
    def pair(self) -> dict[str, Tensor]:
        """Cached teacher outputs: noise, x, and states and times where they are kept."""
        whole = self._draws.whole.once("pair", lambda: self._sources.pair_batch(self._draws.whole))
        return {name: value if name == "times" else value[self._draws.part] for name, value in whole.items()}

    @cached_property
    def condition(self) -> Tensor | None:
        """Labels (size,) of the batch: those of `labelled_by`, else uniform; None without classes.

        Pairs or data without labels get the null class; SettingsError if the network has none.
        """
        classes, null = self._student.num_classes, self._student.null_class
        if not classes:
            return None
        if self.labelled_by is None:
            return self._drawn_condition()
        labels = self.pair.get("condition") if self.labelled_by == "pairs" else self._data[1]
        if labels is not None:
            return labels
        if null is None:
            what = f"the {self.labelled_by} have no labels"
            raise SettingsError(f"the network has {classes} classes and no null class, but {what}")
        return torch.full((self._draws.size,), null, device=self._draws.device)

    def _drawn_condition(self) -> Tensor:
        """Uniform labels (size,) among those to train on, some of them weakened to the null label."""
        classes, null, allowed = self._student.num_classes, self._student.null_class, self._sources.labels
        among = self._student.trained_rows
        if allowed is not None:
            among = torch.tensor([k for k in allowed if k < classes and k != null])
        labels = self._draws.integers("condition", classes if among is None else len(among))
        if among is not None:
            labels = sent(among, self._draws.device)[labels]
        if null is None or not self._sources.null_share:
            return labels
        weaker = self._weakened(labels, self._draws.uniform("null") < self._sources.null_share, "null-conditions")
        if allowed is None:
            return weaker
        return torch.where(torch.isin(weaker, sent(torch.tensor(allowed), weaker.device)), weaker, labels)

    def dropped_condition(self, share: float) -> Tensor | None:
        """`condition` with this share of the labels replaced by the null class, where the network has one, or in a
        network with groups by what is left without some of their conditions."""
        labels = self.condition
        if labels is None or self._student.null_class is None or not share:
            return labels
        return self._weakened(labels, self._draws.uniform("class-dropout") < share, "class-dropout/conditions")

    def _weakened(self, labels: Tensor, which: Tensor, name: str) -> Tensor:
        """The labels (size,); of those in the mask `which` fewer conditions, each smaller number as likely."""
        most = self._student.conditions
        left = self._draws.integers(name, most) if most > 1 else torch.zeros_like(labels)
        return torch.where(which, self._student.with_conditions(labels, left), labels)

    @cached_property
    def scale(self) -> Tensor | None:
        """Guidance scales (size,), uniform over the range that the student takes as an input; None if it takes none."""
        scales = self._student.inputs.guidance
        if scales is None:
            return None
        return scales.low + (scales.high - scales.low) * self._draws.uniform("guidance-scale")

    @property
    def scale_input(self) -> dict[str, Tensor]:
        """`scale` as the student's `predict` takes it: a keyword, or none for a student without that input."""
        return {} if self.scale is None else {"scale": self.scale}

    def guidance(self, fixed: Scales) -> Scales | Tensor:
        """The teacher's guidance scale: the one that the student is told, or `fixed` for one without that input.

        Raises SettingsError for several scales beside that input, which is one number.
        """
        if self.scale is None:
            return fixed
        if isinstance(fixed, tuple):
            raise SettingsError(f"guidance: {told(fixed)} is several scales, and the student is told one",
                                hint="leave out the student's guidance_input, or the term's guidance")  # fmt: skip
        return self.scale
