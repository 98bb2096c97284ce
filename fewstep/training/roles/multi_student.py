"""Several students that share the conditions among them (multi-student distillation), and one model of all of them.

Song et al., Multi-student Diffusion Distillation (2410.23274): each student is trained on its own subset of the
conditions; at inference only the student of the given condition runs.
"""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers import UNet2DModel
from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.folding import fold_additions
from fewstep.networks.network_facts import NetworkFacts
from fewstep.networks.routed import RoutedUNet, dispatch
from fewstep.networks.unet_mlp import ResidualMLP
from fewstep.students.student import Student
from fewstep.util.errors import SettingsError


def require_shareable(facts: NetworkFacts) -> None:
    """Raises SettingsError for a network whose conditions cannot be shared among students of one model."""
    if facts.prompts:
        raise SettingsError("students share classes among them; prompts are no fixed set, of which each has a part")
    if facts.classes and not isinstance(facts.network, UNet2DModel | ResidualMLP):
        raise SettingsError(f"a {facts.kind} cannot stand beside others in one model that diffusers loads")


def route(denoiser: Denoiser, students: int) -> list[int]:
    """The student (from 0) of every label: classes in equal runs, the null label with the first, groups with the
    first of their classes.

    Raises SettingsError if there are fewer classes than students.
    """
    classes = denoiser.num_classes
    if classes < students:
        raise SettingsError(f"{students} students cannot share {classes} classes")
    labels = [label * students // classes for label in range(classes)]
    return labels if denoiser.null_class is None else [*labels, 0, *(labels[group[0]] for group in denoiser.groups)]


class Sifted:
    """The samples of a source of data or pairs that have one of `labels`, in the source's order.

    A batch is taken from a batch of the source `factor` times as long; where that holds too few samples with these
    labels, they are repeated.
    """

    def __init__(self, source: Any, labels: Sequence[int], factor: int):
        self.source, self.labels, self.factor = source, torch.tensor(sorted(labels)), factor

    def __len__(self) -> int:
        return len(self.source)

    def batch(self, seed: int, position: int, size: int) -> Any:
        """As the source's; see DataSource and PairSource. Raises SettingsError where no sample has such a label."""
        wide = self.source.batch(seed, position * self.factor, size * self.factor)
        if isinstance(wide, dict):
            rows = self._rows(wide.get("condition"), size)
            tensors = {name: value for name, value in wide.items() if isinstance(value, Tensor)}
            return {name: value if name == "times" else value[rows] for name, value in tensors.items()}
        rows = self._rows(wide[1], size)
        return wide[0][rows], wide[1][rows]

    def _rows(self, labels: Tensor | None, size: int) -> Tensor:
        if labels is None:
            raise SettingsError("students that share the conditions need labels; these samples have none")
        own = torch.isin(labels, self.labels.to(labels.device)).nonzero().flatten()
        if not len(own):
            raise SettingsError(f"none of {len(labels)} samples has one of the labels {self.labels.tolist()}")
        return own.repeat(-(-size // len(own)))[:size]


class Routed(nn.Module):
    """Networks of our own kind that share the labels: sample i goes through number route[label i]."""

    def __init__(self, experts: Sequence[nn.Module], labels: Sequence[int]):
        super().__init__()
        self.experts = nn.ModuleList(experts)
        self.register_buffer("route", torch.tensor(labels))

    def forward(self, x: Tensor, time: Tensor, labels: Tensor) -> Tensor:
        """x (N, ...), time (N,), labels (N,) int64 -> (N, ...)."""

        def call(expert: nn.Module, rows: Tensor) -> Tensor:
            return expert(x[rows], time[rows], labels[rows])

        return dispatch(self.experts, self.route[labels], call)


def join(students: Sequence[Student]) -> Student:
    """One student of several, which samples each label by its own; it exports as one pipeline."""
    denoisers = [fold_additions(student.denoiser) for student in students]
    first, networks = denoisers[0], [denoiser.network for denoiser in denoisers]
    labels = route(first, len(networks))
    if isinstance(networks[0], UNet2DModel):
        config = {name: value for name, value in networks[0].config.items() if not name.startswith("_")}
        shared = {name: config[name] for name in ("sample_size", "in_channels", "num_class_embeds")}
        with torch.random.fork_rng(devices=[]):  # building networks draws from the global generator
            network = RoutedUNet(expert=config, count=len(networks), route=labels, **shared)
        for expert, own in zip(network.experts, networks, strict=True):
            expert.load_state_dict(own.state_dict())
    else:
        network = Routed(networks, labels)
    home = next(networks[0].parameters()).device
    denoiser = first.around(network.to(home)).requires_grad_(False).eval()
    return Student(denoiser, students[0].sampler)
