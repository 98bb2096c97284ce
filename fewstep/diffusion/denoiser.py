"""A network with its process, prediction type and condition: x0, epsilon, score and velocity at any (x, t).

Losses and samplers speak to this class only; none of them asks "is this a flow or an epsilon network?".
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from fewstep.diffusion import prediction
from fewstep.diffusion.adapters import Adapter, Labels, adapter_for
from fewstep.diffusion.conditions import Condition, ConditionTable, joined, require_condition
from fewstep.diffusion.guidance import calls, is_guided, told
from fewstep.diffusion.label_groups import Groups, chains, require_groups
from fewstep.diffusion.made_of_tensors import as_double
from fewstep.diffusion.network_inputs import ExtraInputs, Given
from fewstep.diffusion.prediction import PredictionType
from fewstep.diffusion.processes import Process, like
from fewstep.util.device import number_on, sent
from fewstep.util.errors import SettingsError

Guidance = float | Tensor | Sequence[float]
"""A scale, one per sample (N,), or one per condition."""


class Further(NamedTuple):
    """Values of the further inputs of one call, as `Denoiser.predict` takes them."""

    second: Tensor | float | None
    scale: Tensor | float | None
    negative: bool

    def repeated(self, count: int) -> Further:
        """The same for `count` copies of the batch, one after the other."""
        return Further(_repeat(self.second, count), _repeat(self.scale, count), self.negative)


@dataclass(frozen=True)
class Prediction:
    """What a denoiser says of x at t. Each reading is computed when it is asked for; all have the shape of x (N, …).

    x, t: the input, t as (N,) float64. output: the (guided) output, of type `kind`. alpha, sigma: shaped to multiply x.
    """

    x: Tensor
    t: Tensor
    output: Tensor
    kind: PredictionType
    alpha: Tensor
    sigma: Tensor
    process: Process

    def as_type(self, kind: PredictionType) -> Tensor:
        """The prediction as `epsilon`, `sample`, `v_prediction` or `flow_prediction`."""
        return prediction.convert(self.output, self.x, self.alpha, self.sigma, self.kind, kind)

    @property
    def x0(self) -> Tensor:
        """The expected clean sample, E[x0 | x_t]."""
        return prediction.to_x0(self.output, self.x, self.alpha, self.sigma, self.kind)

    @property
    def epsilon(self) -> Tensor:
        """The expected noise, E[ε | x_t]."""
        return prediction.to_epsilon(self.output, self.x, self.alpha, self.sigma, self.kind)

    @property
    def score(self) -> Tensor:
        """∇ log p_t(x) = −ε/σ."""
        return -self.epsilon / self.sigma

    @property
    def velocity(self) -> Tensor:
        """dx/dt of the probability-flow ODE in the process's own time: α'(t) x0 + σ'(t) ε."""
        alpha, sigma = (like(factor, self.x) for factor in self.process.derivatives(self.t))
        return alpha * self.x0 + sigma * self.epsilon


class Decodes(Protocol):
    """Makes samples (N, …) of states (N, …), with gradients."""

    def __call__(self, states: Tensor) -> Tensor: ...

    def at(self, number: int) -> Decodes:
        """For states of another size of the family (see `Denoiser.sized`)."""


class Denoiser(nn.Module):
    """A (trainable) denoiser.

    Args:
        network: called through `adapter`; any of its parameters may be frozen by the caller.
        process: the noise process the network was trained in.
        prediction_type: what adapter(network) returns: epsilon, sample, v_prediction or flow_prediction.
        sample_shape: shape of one sample, (C, H, W) for images.
        num_classes: classes a condition may name, 0 … num_classes−1; 0 for an unconditional network.
        null_class: the label that means "no condition", if the network was trained with one.
        adapter: how the network wants its input; by default what diffusers' UNet2DModel expects in this process.
        groups: of classes, whose labels (num_classes + 1, ... in turn) the network was trained with too; see
            label_groups.py.

    Attributes:
        evaluations: network calls per sample since construction (with guidance 2 or more); not those that ended with
            the features that were wanted of them.
        held: names of parameters that training leaves as they are and does not store.
        inputs: what the network takes beside x, t and the label; whoever changes the network says so here
            (`fewstep.networks.extra_inputs.add_inputs`).
        guided_calls: joint, one call of the network for all branches of a guided prediction; sequential, one for each.
        family: what was recorded of the network's pipeline (fewstep.families.family), if it has more parts than this.
        decoder: states (N, ...) → the samples that they stand for, with gradients; None where they are the samples, or
            nothing needs them.
        table: of the conditions' tensors, for a network that takes some (`take`); a condition is a row of it.
        size: number of the samples' size among the family's (`sized`); 0 is `sample_shape`'s own.
    """

    FIELDS = ("process", "prediction_type", "adapter", "sample_shape", "num_classes", "null_class")

    def __init__(
        self,
        network: nn.Module,
        process: Process,
        prediction_type: PredictionType,
        sample_shape: tuple[int, ...],
        num_classes: int = 0,
        null_class: int | None = None,
        adapter: Adapter | None = None,
        groups: Iterable[Sequence[int]] = (),
    ):
        super().__init__()
        if prediction_type not in prediction.PREDICTION_TYPES:
            known = ", ".join(prediction.PREDICTION_TYPES)
            raise SettingsError(f"unknown prediction type {prediction_type!r}; known: {known}")
        self.network = network
        self.process = process
        self.prediction_type: PredictionType = prediction_type
        self.sample_shape = tuple(int(side) for side in sample_shape)
        self.num_classes = num_classes
        self.null_class = null_class
        self.groups: Groups = require_groups(groups, num_classes, null_class)
        # (conditions + 1, labels): each label by its first conditions, none in row 0
        self.register_buffer("chains", torch.tensor(chains(num_classes, self.groups)), persistent=False)
        self.adapter = adapter or adapter_for(process)
        self.evaluations = 0
        self.held: frozenset[str] = frozenset()
        self.inputs = ExtraInputs()
        self.table: ConditionTable | None = None
        self.guided_calls: Literal["joint", "sequential"] = "joint"
        self.family: Any = None
        self.decoder: Decodes | None = None
        self.size = 0

    def sized(self, number: int) -> Denoiser:
        """The same network, called for samples of size `number` of its family; what is done to one is done to both."""
        if number == self.size:
            return self
        if self.size:
            raise ValueError("this denoiser is of one size already")
        family, view = self.family.at(number), copy.copy(self)  # which shares the dictionaries of modules and buffers
        view.size, view.sample_shape = number, family.state
        # the rest of the call, such as a scale that the network embeds, may be the student's own
        view.adapter = replace(self.adapter, call=replace(self.adapter.call, constants=family.call.constants))
        view.decoder = None if self.decoder is None else self.decoder.at(number)
        return view

    def take(self, table: ConditionTable) -> Denoiser:
        """Makes the rows of `table` the conditions of this network: its classes are the rows that may be asked for, and
        a condition is taken from a sample by the row that stands for it without one.

        Raises SettingsError for a network that embeds classes itself.
        """
        if self.table is None and self.num_classes:
            raise SettingsError("this network embeds its classes itself and takes no table of conditions")
        rows = torch.arange(table.size)
        nulls = torch.cat([table.nulls.long(), rows[table.count :]])
        self.table, self.num_classes = table, table.count
        self.null_class = None if table.size == table.count else table.count
        self.chains = torch.stack([nulls, rows]).to(self.chains.device)
        return self

    @property
    def beside(self) -> nn.Module | None:
        """The resting network whose outputs this one is given, if there is one; the copies of a denoiser share it."""
        call = getattr(self.adapter, "call", None)
        return None if call is None or call.side is None else call.side.network

    @property
    def trained_rows(self) -> Tensor | None:
        """(n,) the rows of the table that training may draw at this size; None: all that may be asked for."""
        if self.table is None or self.table.sizes is None:
            return None if self.table is None else self.table.trained
        rows = torch.arange(self.table.count) if self.table.trained is None else self.table.trained
        return rows[self.table.sizes[rows] == self.size]

    def any_condition(self, count: int, device: torch.device) -> Tensor | None:
        """(count,) times a label that may be asked for at this size, to try the network with; None without labels."""
        if not self.num_classes:
            return None
        rows = self.trained_rows if self.table is not None and self.table.sizes is not None else None
        first = 0 if rows is None or not len(rows) else int(rows[0])
        return torch.full((count,), first, dtype=torch.int64, device=device)

    @property
    def further_nulls(self) -> int:
        """Null conditions of the table beside the first."""
        return 0 if self.table is None else max(self.table.size - self.table.count - 1, 0)

    def is_null(self, condition: Tensor) -> Tensor:
        """(N,) booleans: which of the labels (N,) say nothing of the sample."""
        if self.table is not None:
            return condition >= self.table.count
        if self.null_class is None:
            return torch.zeros_like(condition, dtype=torch.bool)
        return condition == self.null_class

    @property
    def labels(self) -> int:
        """How many labels the network tells apart: classes, none where it knows that, and groups."""
        return self.num_classes + (self.null_class is not None) + len(self.groups) if self.num_classes else 0

    @property
    def conditions(self) -> int:
        """How many conditions a label has at most: 1 without groups."""
        return len(self.chains) - 1

    def with_conditions(self, labels: Tensor, count: Tensor | int) -> Tensor:
        """What is left of labels (N,) by their first `count` (a number or (N,)) conditions; by none the null class.

        In a network without groups a class is one condition.
        """
        if self.groups or self.further_nulls:
            return self.chains[count, labels.long()]
        if isinstance(count, int):
            return labels if count else torch.full_like(labels, self.null_class)
        return labels.masked_fill(count == 0, self.null_class)

    @property
    def default_scale(self) -> float | None:
        """The guidance scale that stands for `scale=None`; None for a network without that input."""
        scales = self.inputs.guidance
        return scales.sample if scales else None

    def predict(
        self,
        x: Tensor,
        t: Tensor | float,
        condition: Tensor | None = None,
        guidance: Guidance = 1.0,
        *,
        second: Tensor | float | None = None,
        scale: Tensor | float | None = None,
        negative: bool = False,
    ) -> Prediction:
        """Evaluate the network at x (N, …), native time t (a number or (N,)) and condition (N,) int64 or None.

        guidance: the scale s of u + s (c − u), a number or (N,): s = 1 is one plain call; any other makes one call of
        2N with the null class. Or a sequence of scales, one for each condition of the labels' chains: u + s1 (c1 − u) +
        s2 (c12 − c1) + …, in one call of (1 + scales) N; see guidance.py. By `guided_calls` they are calls of N.
        second: for a network of two times, the native time (a number or (N,), t_min … t) that its output leads to: read
        as x0 and ε, the state there is `process.add_noise(x0, ε, second)`. None is the clean end, t_min.
        scale: for a network that embeds it, the guidance scale as an input; None is `default_scale`.
        negative: for a network of negative times, whether t stands for -t.
        Raises SettingsError where the network cannot follow, or for labels that it does not know (on a GPU such labels
        are the network's own error, since looking at them would wait for the device).
        """
        t, further = self._per_sample(t, x), Further(second, scale, negative)
        if is_guided(guidance):
            output = self._guided(x, t, condition, guidance, further)
        else:
            labels = self._resolved(self._labels(condition, len(x), x.device))
            output = self._evaluate(x, t, self._given(labels, x, further))
        self.evaluations += calls(guidance)
        return self._prediction(x, t, output)

    def x0(
        self, x: Tensor, t: Tensor | float, condition: Tensor | None = None, guidance: Guidance = 1.0
    ) -> Tensor:
        """Short for `predict(...).x0`."""
        return self.predict(x, t, condition, guidance).x0

    def require_samples(self, x: Tensor, condition: Tensor | None) -> None:
        """Raises SettingsError unless x is (N, *sample_shape) and condition (N,) known labels, or None where it may be.

        Waits for a GPU: for the start of a sampling, not for each evaluation.
        """
        self.require_shape(x)
        self.require_condition(condition, len(x))

    def require_condition(self, condition: Tensor | None, count: int, *, wait: bool = True) -> None:
        """Raises SettingsError unless condition is (count,) known labels, or None where it may be.

        The values of labels on a GPU are looked at only with `wait`, since that waits for the device.
        """
        require_condition(condition, count, self.num_classes, self.null_class,
                          len(self.groups) + self.further_nulls, wait=wait)  # fmt: skip

    def require_guidance(self, guidance: Guidance) -> None:
        """Raises SettingsError unless the network can be guided so: it knows no class, and several scales are as many
        as its labels have conditions."""
        if not is_guided(guidance):
            return
        shown = "per sample" if isinstance(guidance, Tensor) else told(guidance)
        if not self.num_classes or self.null_class is None:
            raise SettingsError(f"guidance {shown} needs a network with conditions, classes or texts, and one that "
                                "stands for none (a null condition)", hint="set guidance to 1.0")  # fmt: skip
        if isinstance(guidance, Sequence) and len(guidance) != (wanted := self.conditions):
            raise SettingsError(f"guidance {shown} is {len(guidance)} scales; labels of this network have {wanted} "
                                f"condition{'s' * (wanted > 1)}, each with a scale")  # fmt: skip

    def require_shape(self, x: Tensor) -> None:
        """Raises SettingsError unless x is (N, *sample_shape)."""
        if x.shape[1:] != self.sample_shape:
            sides = ", ".join(str(side) for side in self.sample_shape)
            raise SettingsError(f"noise and samples must be of shape (N, {sides}), got {tuple(x.shape)}")

    def describe(self) -> dict[str, Any]:
        """Everything but the weights, ready for JSON."""
        further = {"inputs": self.inputs.to_dict()} if self.inputs else {}
        if self.groups:
            further["groups"] = [list(group) for group in self.groups]
        return further | {
            "process": self.process.to_dict(),
            "prediction_type": self.prediction_type,
            "adapter": self.adapter.to_dict(),
            "sample_shape": list(self.sample_shape),
            "num_classes": self.num_classes if self.table is None else 0,  # rows mean nothing without their table
            "null_class": self.null_class if self.table is None else None,
        }

    @classmethod
    def described(cls, description: dict[str, Any], network: nn.Module) -> Denoiser:
        """The denoiser that `describe` described, around `network`, which takes the further inputs described."""
        fields = dict(description)
        inputs = fields.pop("inputs", None)
        process, adapter = Process.from_dict(fields.pop("process")), Adapter.from_dict(fields.pop("adapter"))
        denoiser = cls(network, process, adapter=adapter, **fields)
        if inputs is not None:
            denoiser.inputs = ExtraInputs.from_dict(inputs)
        return denoiser

    def around(self, network: nn.Module, inputs: ExtraInputs | None = None) -> Denoiser:
        """The same denoiser around another network, which takes these further inputs (default: this one's)."""
        fields = {name: value for name, value in self.describe().items() if name != "inputs"}
        other = Denoiser.described(fields, network)
        other.inputs, other.family = self.inputs if inputs is None else inputs, self.family
        other.decoder, other.guided_calls = self.decoder, self.guided_calls
        other.adapter = self.adapter
        return other if self.table is None else other.take(self.table)

    def decoded(self, states: Tensor) -> Tensor:
        """Samples (N, ...) that states (N, ...) stand for, with gradients: what a function of images is given."""
        return states if self.decoder is None else self.decoder(states)

    def angle(self, t: Tensor) -> Tensor:
        """atan(σ/α), in [0, π/2], of native times."""
        return torch.atan2(self.process.sigma(t), self.process.alpha(t))

    def hold(self, names: frozenset[str]) -> Denoiser:
        """Keeps these parameters of the network out of training, beside those that are already."""
        self.held = self.held | {f"network.{name}" for name in names}
        return self

    def _prediction(self, x: Tensor, t: Tensor, output: Tensor) -> Prediction:
        alpha, sigma = like(self.process.alpha(t), x), like(self.process.sigma(t), x)
        return Prediction(x, t, output, self.prediction_type, alpha, sigma, self.process)

    def _evaluate(self, x: Tensor, t: Tensor, labels: Labels) -> Tensor:
        output = self.adapter(self.network, self.process, x, t, labels).to(x.dtype)
        call = getattr(self.adapter, "call", None)
        if call is None or call.still is None:
            return output
        known = labels.labels if isinstance(labels, Given) else labels
        clean = sent(known.tensors[call.still], x.device, x.dtype)
        tokens, alpha, sigma = clean.shape[1], like(self.process.alpha(t), x), like(self.process.sigma(t), x)
        exact = prediction.convert(clean, x[:, :tokens], alpha, sigma, "sample", self.prediction_type)
        return torch.cat([exact.to(x.dtype), output[:, tokens:]], dim=1)

    def _guided(
        self, x: Tensor, t: Tensor, condition: Tensor | None, guidance: Guidance, further: Further
    ) -> Tensor:
        self.require_guidance(guidance)
        if condition is None:
            raise SettingsError("guidance needs a condition", hint="set guidance to 1.0")
        scales = list(guidance) if isinstance(guidance, Sequence) else [guidance]
        whole = self._labels(condition, len(x), x.device)
        weaker = [self.with_conditions(whole, conditions) for conditions in range(len(scales))]
        branches, count = [*weaker, whole], len(scales) + 1
        if self.guided_calls == "joint":
            many = torch.cat([x] * count)
            given = self._given(self._all_resolved(branches), many, further.repeated(count))
            outputs = self._evaluate(many, torch.cat([t] * count), given).chunk(count)
        else:
            outputs = [self._evaluate(x, t, self._given(self._resolved(some), x, further)) for some in branches]
        total = outputs[0]
        for s, less, more in zip(scales, outputs[:-1], outputs[1:], strict=True):
            total = total + like(number_on(x.device, s), x) * (more - less)
        return total

    def _resolved(self, labels: Tensor | None) -> Tensor | Condition | None:
        """The labels as the network takes them: with their tensors where it takes some."""
        return labels if self.table is None else Condition(labels, self.table.gather(labels))

    def _all_resolved(self, labels: list[Tensor]) -> Tensor | Condition:
        """Batches of labels, one after the other, as the network takes them."""
        return torch.cat(labels) if self.table is None else joined([self._resolved(some) for some in labels])

    def _given(self, labels: Tensor | Condition | None, x: Tensor, further: Further) -> Labels:
        """What goes in the labels' place: the labels, and the further inputs of a network that has some."""
        inputs, (second, scale, negative) = self.inputs, further
        for value, there, what in ((second, inputs.second_time, "second time"), (scale, inputs.guidance, "scale")):
            if value is not None and not there:
                raise SettingsError(f"this network takes no {what}; give it one in the recipe's `student`")
        if negative and not inputs.negative:
            raise SettingsError("this network takes no negative times; set negative_time in the recipe's `student`")
        if not inputs:
            return labels
        angle = None
        if inputs.second_time:
            angle = self.angle(self._per_sample(self.process.t_min if second is None else second, x))
        if inputs.guidance:
            scale = self._per_sample(inputs.guidance.sample if scale is None else scale, x)
        sign = torch.full((len(x),), float(negative), device=x.device) if inputs.negative else None
        return Given(labels, angle, scale, sign)

    @staticmethod
    def _per_sample(value: Tensor | float, x: Tensor) -> Tensor:
        if not isinstance(value, Tensor) or value.shape != (len(x),) or value.device != x.device:
            return number_on(x.device, value, torch.float64).expand(len(x))
        return as_double(value)

    def _labels(self, condition: Tensor | None, count: int, device: torch.device) -> Tensor | None:
        self.require_condition(condition, count, wait=False)  # this runs in every step
        if self.num_classes == 0:
            return None
        if condition is None:
            return torch.full((count,), self.null_class, dtype=torch.int64, device=device)
        return condition.to(device=device, dtype=torch.int64)


def _repeat(value: Tensor | float | None, count: int) -> Tensor | float | None:
    return torch.cat([value] * count) if isinstance(value, Tensor) and value.ndim else value
