"""A whole run of a recipe: its rounds in order, each with pairs of its own teacher where it asks for them."""

import copy
import dataclasses
import hashlib
import json
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import torch

from fewstep.data.sized import Sized, by_size
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.randomness import derive
from fewstep.networks.folding import fold_additions
from fewstep.networks.shared_weights import copied, held_parameters
from fewstep.objectives.role_settings import RoleSettings
from fewstep.objectives.term_settings import TEACHER_NETWORK
from fewstep.recipes import Recipe, check_needs
from fewstep.students.sampler_settings import SamplerSettings
from fewstep.students.student import Student, adapt, make_student
from fewstep.teachers.mixture import GaussianMixture
from fewstep.training.digests import beside_digest, tensor_digest
from fewstep.training.distributed import World
from fewstep.training.loss_meter import OnProgress
from fewstep.training.recipe_fit import require_recipe, require_shardable
from fewstep.training.roles import fit_network
from fewstep.training.roles.fresh_networks import fresh_network
from fewstep.training.roles.multi_student import Sifted, join, route
from fewstep.training.roles.teacher_schedule import way_back
from fewstep.training.round_trainer import RoundTrainer
from fewstep.training.run_options import RunOptions
from fewstep.training.step.batches import DataSource, MixedPairs, PairSource, Sources
from fewstep.training.step.size_cycle import size_cycle
from fewstep.trajectories import TrajectorySettings, make_set
from fewstep.trajectories.sized_sets import settings_by_size
from fewstep.util.errors import SettingsError


class Distillation:
    """A run of `recipe` on `teacher`.

    Args:
        recipe: with overrides applied.
        teacher: is moved to `device`, frozen and cast as it stands, so give a copy of one that is needed further
            (`distill` does); a closed-form one gets a fitted stand-in where weights are needed.
        options: images over all rounds, seed, device, and the folder where checkpoints and pairs of rounds stand
            (`round-N/…`).
        data: real data. pairs: of the teacher, for the first round; None: the round makes them itself.
        trajectories: what rounds take over for the pairs they make, where the recipe leaves it open.
        on_pairs: called with (pairs made, pairs in all).

    Raises SettingsError if the recipe needs data and there are none, or something that the teacher's network lacks.
    """

    def __init__(
        self,
        recipe: Recipe,
        teacher: Denoiser,
        options: RunOptions,
        *,
        data: DataSource | None = None,
        pairs: PairSource | None = None,
        trajectories: TrajectorySettings | None = None,
        on_pairs: Callable[[int, int], None] | None = None,
    ):
        check_needs(recipe, data=data is not None, pairs=True)
        require_recipe(recipe, teacher)
        if options.shards:
            require_shardable(recipe, None if isinstance(teacher, GaussianMixture) else teacher.network)
        if options.folder is None:
            raise SettingsError("a run needs a folder, where rounds keep their pairs")
        self.recipe, self.options, self.seed = recipe, options, options.seed
        self.device = torch.device(options.device)
        # what is cast or sharded while a round runs is kept on the CPU
        stays = recipe.training.frozen == "float32" and not options.shards
        self.home = self.device if stays else torch.device("cpu")
        self.teacher = teacher.to(self.home).requires_grad_(False)
        self.teacher.guided_calls = recipe.training.guided_calls
        self.closed_form = isinstance(teacher, GaussianMixture)
        self.trajectories = trajectories or TrajectorySettings()
        self.on_pairs = on_pairs
        self._data, self._first_pairs = data, pairs
        self._students: dict[int, Student] = {}
        self._roles: dict[int, dict[str, Denoiser]] = {}
        self._recorded: dict[int, list[Denoiser]] = {}

    @cached_property
    def origin(self) -> Denoiser:
        """The teacher's weights: itself, or for a closed form the network fitted to it."""
        return fit_network.stand_in(self.teacher, self.seed, self.home) if self.closed_form else self.teacher

    def student_after(self, index: int, on_progress: OnProgress | None = None) -> Student:
        """The student at the end of round `index` (from 0); finished rounds are read from their checkpoints."""
        if index not in self._students:
            self._students[index] = self._run(index, on_progress)
        return self._students[index]

    def student(self) -> Student:
        """What the recipe ends with: the last round's student, or the one model of several."""
        last = {own.student: index for index, own in enumerate(self.recipe.rounds)}
        students = [self.student_after(index) for _, index in sorted(last.items())]
        return students[0] if len(students) == 1 else join(students)

    def folder_of(self, index: int) -> Path:
        """Where round `index` keeps its checkpoints and pairs."""
        return Path(self.options.folder) / f"round-{index + 1}"

    def _run(self, index: int, on_progress: OnProgress | None) -> Student:
        trainer, sampler = self.trainer(index)
        return self._ended(index, trainer, trainer.run(on_progress), sampler)

    def _ended(self, index: int, trainer: RoundTrainer, trained: Denoiser, sampler: SamplerSettings) -> Student:
        """The student of a round whose trainer is done with it."""
        student = Student(self._merged(index, trained), sampler)
        self._keep(index, trainer)
        return student

    def _keep(self, index: int, trainer: RoundTrainer) -> None:
        """Keeps of a finished round what a later one names; its optimisers and averages are given up."""
        for later, own in enumerate(self.recipe.rounds):
            if self.recipe.before(later) == index:
                named = {role for role, settings in own.roles.items()
                         if isinstance(settings, RoleSettings) and settings.init == "previous"}  # fmt: skip
                self._roles[index] = {role: trainer.given_back(role) for role in sorted(named)}
                if own.teacher == "recorded":
                    self._recorded[index] = trainer.recorded()

    def trainer(self, index: int) -> tuple[RoundTrainer, SamplerSettings]:
        """What trains round `index`, ready to run, and how its student samples; the rounds before are run first."""
        this = self.recipe.rounds[index]
        before = self.recipe.before(index)
        previous = None if before is None else self.student_after(before)
        for merged in this.merge:
            self.student_after(merged.round - 1)
        teacher = previous.denoiser if this.teacher == "previous" else self.teacher
        student = self._start(index, previous)
        student.sampler = self._sampler(index, student)
        networks = {"student": student.denoiser, "teacher": teacher}
        for role, settings in this.roles.items():
            if isinstance(settings, RoleSettings):
                networks[role] = self._beside(role, self._source(role, settings, student, index), settings, index)
        if TEACHER_NETWORK in this.frozen:
            networks[TEACHER_NETWORK] = self._weights(index)
        trainer = RoundTrainer(
            self.recipe,
            index,
            networks,
            student.times().tolist(),
            self._sources(index, teacher),
            self._options_of(index),
            finest=self._times(student, self.recipe.finest),
            path=way_back(self._recorded[before], teacher) if this.teacher == "recorded" else (),
        )
        return trainer, student.sampler

    def _options_of(self, index: int) -> RunOptions:
        folder = self.folder_of(index) / "checkpoints" if self.options.keep_checkpoints else None
        images = self.recipe.images_of(index, self.options.images)
        return dataclasses.replace(self.options, images=images, folder=folder)

    @torch.no_grad()
    def _merged(self, index: int, student: Denoiser) -> Denoiser:
        """The round's student, or the mean of it and of earlier rounds' by their weights: W = sum_k w_k W_k."""
        shares = {merged.round - 1: merged.weight for merged in self.recipe.rounds[index].merge}
        if shares:
            student = copy.deepcopy(student)
            others = {k: self._students[k].denoiser.state_dict() for k in shares}
            for name, value in student.state_dict().items():
                if value.is_floating_point():
                    mean = value * (1 - sum(shares.values()))
                    value.copy_(mean + sum(share * others[k][name] for k, share in shares.items()))
        return student

    def _sources(self, index: int, teacher: Denoiser) -> Sources:
        """What this round reads; of a student that shares the conditions its own part."""
        this, students = self.recipe.rounds[index], self.recipe.students
        data = self._data if this.needs.data else None
        pairs = self._pairs(index, teacher) if this.needs.pairs else None
        labels = None
        if students > 1:
            labels = tuple(k for k, own in enumerate(route(self.teacher, students)) if own == this.student - 1)
            data, pairs = (source and by_size(lambda own: Sifted(own, labels, 4 * students), source)
                           for source in (data, pairs))  # fmt: skip
        sizes = size_cycle(self.teacher, sum(this.turns.values()), data, pairs)
        return Sources(data, pairs, 0.5 if self.closed_form else 0.0, labels, sizes)

    def _source(self, role: str, settings: RoleSettings, student: Student, index: int) -> Denoiser:
        """What the network of this role starts from."""
        if settings.init == "previous":
            return self._roles[self.recipe.before(index)][role]
        return student.denoiser if settings.init == "student" else self._weights(index)

    def _weights(self, index: int) -> Denoiser:
        """The network of this round's teacher; a closed-form one's is fitted only where something asks for it."""
        own = self.recipe.rounds[index].teacher == "previous"
        return self._students[self.recipe.before(index)].denoiser if own else self.origin

    def _times(self, student: Student, times: int) -> list[float]:
        """Native times of `times` steps for one of the final student's, every one of them on the finest grid."""
        if self.recipe.finest == 1:
            return student.times().tolist()
        finest = self._stepping(student, self.recipe.student.steps * self.recipe.finest)
        return Student(student.denoiser, finest).times()[:: self.recipe.finest // times].tolist()

    def _sampler(self, index: int, student: Student) -> SamplerSettings:
        """How this round's student steps: on its own grid where that is nested in the finest, else on a part of it."""
        if self.recipe.finest == 1:
            return student.sampler
        times = self._times(student, self.recipe.rounds[index].times_steps)
        own = self._stepping(student, len(times))
        if Student(student.denoiser, own).times().tolist() == times:
            return own
        return own.model_copy(update={"times": tuple(times), "start": None})

    @staticmethod
    def _stepping(student: Student, steps: int) -> SamplerSettings:
        start = None if student.start == student.denoiser.process.t_max else student.start
        return student.sampler.model_copy(update={"steps": steps, "start": start, "times": None})

    def _beside(self, role: str, source: Denoiser, settings: RoleSettings, index: int) -> Denoiser:
        """A copy of `source` without the student's adapters and further inputs, to be trained in `role`; where adapters
        alone are, on the weights of a source that rests itself."""
        network = fold_additions(source)
        if network is source:
            network = copied(source, source.parameters() if settings.lora and settings.init == "teacher" else ())
        network.held = frozenset()
        return adapt(network, settings.lora, derive(self.seed, f"{role}-lora", index))

    def _start(self, index: int, previous: Student | None) -> Student:
        start = self.recipe.rounds[index].start
        if start == "previous" or (start is None and previous is not None):
            return Student(copied(previous.denoiser, held_parameters(previous.denoiser)), previous.sampler)
        settings = self.recipe.student.model_copy(update={"init": start} if start else {})
        seed = derive(self.seed, "student", index)
        if settings.init == "random" and self.closed_form:
            return make_student(fresh_network(self.teacher, seed), settings)
        return make_student(self.origin, settings, seed)

    def _pairs(self, index: int, teacher: Denoiser) -> PairSource:
        if index == 0 and self._first_pairs is not None:
            return self._first_pairs
        own, common = self.recipe.rounds[index].trajectories, self.trajectories
        settings = common.model_copy(
            update={
                "count": own.count or common.count,
                "solver": own.solver or common.solver,
                "steps": own.steps or common.steps,
                "guidance": own.guidance,
                "keep": self.recipe.rounds[index].needs.states,
            }
        )
        folder, digest = self.folder_of(index), network_digest(teacher)
        folder.mkdir(parents=True, exist_ok=True)

        def made(name: str, classes: int, settings: TrajectorySettings = settings) -> PairSource:
            with World.current().first_then_others():
                sets = {size: make_set(
                    teacher.sized(size), own, folder / (f"{name}@{size}" if size else name), teacher_digest=digest,
                    seed=derive(self.seed, f"round-{name}", index, *([size] if size else [])), num_classes=classes,
                    device=self.device, progress=self.on_pairs,
                ) for size, own in settings_by_size(teacher, settings).items()}  # fmt: skip
            return Sized([sets.get(size) for size in range(max(sets) + 1)]) if len(sets) > 1 else sets[0]

        if not self.closed_form:
            return made("pairs", teacher.num_classes)
        plain = settings.model_copy(update={"guidance": 1.0})  # without a label u + s (u - u) is u
        whole, by_class = made("pairs-whole", 0, plain), made("pairs-by-class", teacher.num_classes)
        return MixedPairs(whole, by_class, teacher.null_class)


def network_digest(denoiser: Denoiser) -> str:
    """SHA-256 of a denoiser's weights and description, and of the network beside its own, if there is one."""
    description = json.dumps(denoiser.describe() | beside_digest(denoiser), sort_keys=True)
    weights = tensor_digest(denoiser.state_dict())
    return hashlib.sha256(f"{description}\n{weights}".encode()).hexdigest()
