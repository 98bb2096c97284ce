"""What a round trains, and what stands beside it: networks, heads, optimisers, averages. A checkpoint holds it all."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from fewstep.diffusion.denoiser import Denoiser
from fewstep.objectives.term import Term
from fewstep.recipes import Recipe, Round
from fewstep.training.optimiser import RoleOptimiser
from fewstep.training.roles.ema import Average, load_exactly
from fewstep.training.roles.placement import Placement
from fewstep.training.roles.target_network import Copies
from fewstep.training.roles.teacher_schedule import Recorder
from fewstep.training.roles.trainable import sharded_names, trained_state


class RoundState:
    """The state of a round.

    Args:
        recipe: says how to optimise and average. this: the round.
        networks: by role, on their device; the roles with a turn are trained in place.
        copies: of the student, which the terms read. terms: of the round, their heads built.
        steps: of the round. apart: whether the average lies on the CPU.
    """

    def __init__(
        self,
        recipe: Recipe,
        this: Round,
        networks: dict[str, Denoiser],
        copies: Copies,
        terms: Sequence[Term],
        steps: int,
        apart: bool = False,
    ):
        self.networks, self.copies = networks, copies
        self._trained: str | None = None
        self.cycle = [role for role, count in this.turns.items() for _ in range(count)]
        self.optimisers: dict[str, RoleOptimiser] = {}
        for role in this.turns:
            modules: dict[str, nn.Module] = {role: networks[role]} if role in networks else {}  # else heads only
            for number, term in enumerate(terms):
                if role in term.heads:
                    modules[f"{role}-head-{number}-{term.name}"] = term.heads[role]
            scale = this.roles[role].lr_scale if role in this.roles else 1.0
            self.optimisers[role] = RoleOptimiser(modules, recipe.optimiser, scale)
        self.average = Average(networks["student"], recipe.training.ema, apart=apart)
        record = this.record
        self.recorder = None if record is None else Recorder(networks[record.role], record.count, steps)

    def train_only(self, role: str) -> None:
        """Gives the parameters of `role` a graph, and those of no other role."""
        if role != self._trained:
            for other, optimiser in self.optimisers.items():
                optimiser.train(other == role)
            self._trained = role

    def turns_before(self, step: int, role: str) -> int:
        """How often `role` was trained before this step."""
        cycles, rest = divmod(step, len(self.cycle))
        return cycles * self.cycle.count(role) + self.cycle[:rest].count(role)

    def weights(self, state: Callable[[nn.Module], dict[str, Tensor]] = trained_state) -> dict[str, Tensor]:
        """Trained tensors, by role and name (heads included)."""
        return {
            f"{part}/{name}": value
            for optimiser in self.optimisers.values()
            for part, module in optimiser.modules.items()
            for name, value in state(module).items()
        }

    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the state, by group and name."""
        groups = {"weights": self.weights(), "average": self.average.weights, "target": self.copies.state()}
        if self.recorder is not None:
            groups["recorded"] = self.recorder.state()
        for role, optimiser in self.optimisers.items():
            groups[f"optimiser/{role}"] = optimiser.state()
        return {f"{group}/{name}": value for group, named in groups.items() for name, value in named.items()}

    def sharded(self) -> frozenset[str]:
        """Names, among those of `tensors`, of what other processes hold further rows of."""
        student = sharded_names(self.networks["student"])
        found = {f"{group}/{name}" for group in ("average", "target") for name in student}
        if self.recorder is not None:
            recorded = sharded_names(self.recorder.network)
            found |= {f"recorded/{k}/{name}" for k in range(len(self.recorder.marks)) for name in recorded}
        for role, optimiser in self.optimisers.items():
            for part, module in optimiser.modules.items():
                for name in sharded_names(module):
                    found.add(f"weights/{part}/{name}")
                    found |= {f"optimiser/{role}/{part}.{name}/{key}" for key in ("exp_avg", "exp_avg_sq")}
        return frozenset(found)

    @property
    def compact(self) -> bool:
        """Whether moments are in 8 bits, which are laid out for the rows of this process and cannot be for others."""
        return any(optimiser.compact for optimiser in self.optimisers.values())

    def load(self, tensors: dict[str, Tensor], step: int, moments: bool = True) -> None:
        """Takes what `tensors` gave after `step` steps, with moments or, of a round that is done, without. Raises
        ValueError if it is not of this round or incomplete."""
        groups: dict[str, dict[str, Tensor]] = {
            "weights": {}, "average": {}, "target": {}, "recorded": {}, "optimiser": {}
        }  # fmt: skip
        for full, value in tensors.items():
            group, _, name = full.partition("/")
            if group not in groups:
                raise ValueError(f"unknown tensor '{full}'")
            groups[group][name] = value
        load_exactly(self.weights(), groups["weights"], "weights")
        self.average.load(groups["average"])
        self.copies.load(groups["target"])
        if self.recorder is not None:
            self.recorder.load(groups["recorded"], step)
        for role, optimiser in self.optimisers.items():
            prefix = f"{role}/"
            own = {n.removeprefix(prefix): v for n, v in groups["optimiser"].items() if n.startswith(prefix)}
            if not own and moments and self.turns_before(step, role):
                raise ValueError(f"the optimiser state of role '{role}' is missing")
            optimiser.load(own)

    def finished_student(self, placement: Placement) -> Denoiser:
        """The student with averaged weights, frozen, in float32, given back by what placed it."""
        self._trained = None
        return placement.given_back(self.networks["student"], self.average.weights).float()
