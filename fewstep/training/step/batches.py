"""Where a round's batches come from: real data and cached teacher outputs, in an order keyed by (seed, position)."""

from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from fewstep.data.sized import sets_of
from fewstep.diffusion.randomness import Permutation, generator
from fewstep.objectives.term_settings import Needs
from fewstep.training.digests import tensor_digest
from fewstep.training.step.keyed_draws import Draws
from fewstep.training.step.size_cycle import SizeCycle
from fewstep.util.device import sent
from fewstep.util.errors import SettingsError

Source = Literal["data", "pairs"]


class DataSource(Protocol):
    """Real samples, such as fewstep.data.images.ImageSet.

    A source with labels should tell the number of classes in `num_classes`: without a teacher nothing else does.
    """

    def batch(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor | None]:
        """Samples `position ... position + size - 1` of an endless keyed order: x (size, ...), y (size,) or None."""


class PairSource(Protocol):
    """Teacher outputs, such as fewstep.trajectories.TrajectorySet."""

    def batch(self, seed: int, position: int, size: int) -> dict[str, Any]:
        """noise, x (size, ...), condition (size,), optionally states (size, S, ...) and times."""


@dataclass(frozen=True)
class Sources:
    """What a round reads from; None where it needs nothing."""

    data: DataSource | None = None
    pairs: PairSource | None = None
    null_share: float = 0.0
    """Without labelled data or pairs: share of the samples that get the null label instead of a uniform class."""
    labels: tuple[int, ...] | None = None
    """The labels to train on, the null label among them or not; None: all."""
    sizes: SizeCycle = SizeCycle()
    """Which of the sets of a `Sized` source a step reads."""

    def read_by(self, needs: Needs) -> Source | None:
        """The source that a term with these needs reads. A term that reads neither data nor pairs is given the labels
        of the data where there are data, else those of the pairs; None where there are neither."""
        if self.pairs is not None and (needs.pairs or self.data is None):
            return "pairs"
        return None if self.data is None else "data"

    def data_batch(self, draws: Draws) -> tuple[Tensor, Tensor | None]:
        """The real samples of this step's whole batch, on its device."""
        if self.data is None:
            raise SettingsError("this recipe needs real data; give `data`")
        x, y = draws.here("data", lambda draws: self._read(self.data, draws))
        return sent(x, draws.device, draws.dtype), None if y is None else sent(y, draws.device)

    def examples(self, seed: int, count: int) -> tuple[Tensor, Tensor | None]:
        """The first `count` real samples of the endless order, with labels if there are any."""
        if self.data is None:
            raise SettingsError("this recipe needs real data; give `data`")
        return self.data.batch(seed, 0, count)

    def pair_batch(self, draws: Draws) -> dict[str, Tensor]:
        """The pairs of this step's whole batch, on its device."""
        if self.pairs is None:
            raise SettingsError("this recipe needs cached pairs of the teacher")
        batch = draws.here("pairs", lambda draws: self._read(self.pairs, draws))
        return {
            name: sent(value, draws.device, draws.dtype if value.dtype == torch.float32 else value.dtype)
            for name, value in batch.items()
            if isinstance(value, Tensor)
        }

    def _read(self, source: Any, draws: Draws) -> Any:
        """What a step reads of a source, from the set of its size, where its place in the order is."""
        size, before = self.sizes.at(draws.step)
        return sets_of(source)[size].batch(draws.seed, before * draws.batch, draws.batch)

    def digest(self, seed: int, size: int) -> str:
        """SHA-256 of the first batch of each source and size: by it a checkpoint knows that its data have changed."""
        first: dict[str, Tensor] = {}
        for number in self.sizes.sizes:
            end = f"@{number}" if number else ""
            if self.data is not None:
                x, y = sets_of(self.data)[number].batch(seed, 0, size)
                first |= {f"data{end}": x} if y is None else {f"data{end}": x, f"labels{end}": y}
            if self.pairs is not None:
                found = sets_of(self.pairs)[number].batch(seed, 0, size)
                first |= {f"{name}{end}": value for name, value in found.items() if isinstance(value, Tensor)}
        return tensor_digest(first)


class TensorData:
    """Samples in memory, each epoch in a keyed order of its own."""

    def __init__(self, x: Tensor, y: Tensor | None = None):
        if not len(x) or (y is not None and len(y) != len(x)):
            raise SettingsError(f"data: {len(x)} samples and {len(y) if y is not None else 'no'} labels")
        if not torch.isfinite(x).all():
            raise SettingsError("data: holds NaN or infinite values")
        self.x, self.y = x.detach().float().cpu(), None if y is None else y.detach().long().cpu()
        self._order: tuple[tuple[int, int], Permutation] | None = None

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_classes(self) -> int:
        """One more than the largest label; 0 without labels."""
        return 0 if self.y is None else int(self.y.max()) + 1

    def batch(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor | None]:
        """Samples of the endless order; see DataSource."""
        n, indices = len(self.x), []
        while size:
            epoch, offset = divmod(position, n)
            take = min(size, n - offset)
            if self._order is None or self._order[0] != (seed, epoch):
                self._order = ((seed, epoch), Permutation(n, seed, "data-order", epoch))
            indices.append(self._order[1](torch.arange(offset, offset + take)))
            position, size = position + take, size - take
        chosen = torch.cat(indices)
        return self.x[chosen], None if self.y is None else self.y[chosen]


class PartlyLabelled:
    """A labelled source of which every tenth sample, by its place, gets the null label.

    A fresh network learns so what no condition means; one that starts from a teacher knows. The share is that of the
    teacher stage.
    """

    EVERY = 10

    def __init__(self, source: DataSource, null_class: int):
        self.source, self.null_class = source, null_class

    def batch(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor]:
        """See DataSource."""
        x, y = self.source.batch(seed, position, size)
        places = torch.arange(position, position + size, device=y.device)
        return x, torch.where(places % self.EVERY == 0, self.null_class, y.long())


class ExactData:
    """Fresh exact samples of a closed-form teacher, keyed by position.

    The label of a sample is its component; every second sample has the null label, so that a student learns the whole
    mixture as well as its components; of a teacher with groups, it has the label of a group or the null label in turn.
    """

    def __init__(self, teacher: Any):
        self.teacher = teacher

    @property
    def num_classes(self) -> int:
        """The components."""
        return self.teacher.num_classes

    def batch(self, seed: int, position: int, size: int) -> tuple[Tensor, Tensor | None]:
        """`size` samples drawn for this position, with labels."""
        x, y = self.teacher.labelled_samples(size, generator(seed, "exact-data", position))
        left = torch.arange(len(y[::2])) % self.teacher.conditions
        y[::2] = self.teacher.with_conditions(y[::2], left)
        return x, y


class MixedPairs:
    """Unconditional pairs and pairs by class of one teacher in turn: even places without, odd places with a class.

    None by a group of classes: its label serves the teacher's guidance.
    """

    def __init__(self, without: PairSource, given: PairSource, null_class: int):
        self.without, self.given, self.null_class = without, given, null_class

    def batch(self, seed: int, position: int, size: int) -> dict[str, Any]:
        """See PairSource; position and size are even or the places alternate from the wrong end, which is harmless."""
        half = size - size // 2
        first = self.without.batch(seed, position // 2, half)
        second = self.given.batch(seed, position // 2, size // 2)
        first["condition"] = torch.full((half,), self.null_class)
        order = torch.argsort(torch.cat([torch.arange(half) * 2, torch.arange(size // 2) * 2 + 1]))
        return {
            name: value if name == "times" else torch.cat([value, second[name]])[order]
            for name, value in first.items()
            if isinstance(value, Tensor)
        }
