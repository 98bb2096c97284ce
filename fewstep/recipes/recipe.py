"""A recipe: the rounds of a published system, and only what differs from the defaults. Torch-free."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from fewstep.diffusion.guidance import Scales, is_guided
from fewstep.objectives.registry import AnyTerm
from fewstep.objectives.role_settings import TurnSettings
from fewstep.objectives.term_settings import COMPARED_STATES, OFFERED, Needs
from fewstep.recipes.published import Preset, Published
from fewstep.recipes.training_settings import (
    Inputs,
    MergedRound,
    OptimiserSettings,
    Overrides,
    Recording,
    RoundTrajectories,
    TrainingSettings,
)
from fewstep.students.student_settings import StudentSettings
from fewstep.util.config import Strict, parse
from fewstep.util.errors import SettingsError

Target = Literal["few-step", "tilted", "guided", "compression", "guidance", "bridge"]
"""What a student's samples should be, by which it is judged (fewstep/conformance).

few-step: the teacher's own distribution, in few evaluations. tilted: that distribution reweighted by a reward.
guided: the end of the teacher's guided ODE. compression: what the teacher makes in as many steps, by a cheaper network.
guidance: what the guided teacher makes in as many steps, without its second call. bridge: the data end of a bridge.
"""

DESCRIBES = frozenset({"summary", "reference", "status", "published"})
"""What a recipe says of itself that no run and no judgement depends on."""


class Reference(Strict):
    """Where the system was published."""

    title: str
    arxiv: str | None = None


class Round(Strict):
    """One training phase."""

    terms: Annotated[list[AnyTerm], Field(min_length=1)]
    turns: dict[str, Annotated[int, Field(ge=1)]] = {"student": 1}
    """Steps that each role takes in a cycle, in this order."""
    share: Annotated[float, Field(gt=0)] = 1.0
    """The round's part of the run's images, over the sum of all rounds."""
    student: Annotated[int, Field(ge=1)] = 1
    """Which of the recipe's students this round trains."""
    times_steps: Annotated[int, Field(ge=1)] = 1
    """The student of this round takes so many times `student.steps` steps: 8, 4, 2, 1 halve them round by round."""
    teacher: Literal["teacher", "previous", "recorded"] = "teacher"
    """previous: the student of the round before; recorded: the checkpoints that it took down, from the last back to the
    teacher."""
    backtrack: Annotated[float, Field(gt=0, le=1)] = 0.5
    """teacher: recorded: the share of the round until the teacher itself is reached."""
    record: Recording | None = None
    start: Literal["teacher", "random", "previous"] | None = None
    """What the student starts from; None: as `student.init` says in the first round, later the student before."""
    inputs: Inputs = "own"
    """What the student is given where a term asks for it at one of its steps after the first. own: what its earlier
    steps made (backward simulation, DMD2); data, pairs: real samples or the teacher's, noised (ADD, LADD)."""
    merge: tuple[MergedRound, ...] = ()
    """The round ends with the weighted mean of its student and those of earlier rounds, whose weights stand here."""
    trajectories: RoundTrajectories = RoundTrajectories()
    """How this round makes pairs of its teacher; the first round's come from the pipeline's own stage."""

    @property
    def needs(self) -> Needs:
        """What the terms of this round ask for."""
        total = Needs(data=self.inputs == "data", pairs=self.inputs == "pairs")
        for term in self.terms:
            total = total | term.needs
        return total

    @property
    def parts(self) -> int:
        """The finest steps of this round, its teacher's included, within one of the final student's."""
        return self.times_steps * max(term.parts for term in self.terms)

    @property
    def roles(self) -> dict[str, TurnSettings]:
        """What is trained beside the student, by role; RoleSettings for one with a network of its own."""
        return {role: settings for term in self.terms for role, settings in term.roles.items()}

    @property
    def differentiates_forwards(self) -> bool:
        """Whether gradient checkpointing changes the bits of what this round trains."""
        return any(term.differentiates_forwards for term in self.terms)

    @property
    def frozen(self) -> frozenset[str]:
        """Frozen networks besides the teacher that the terms read, by role."""
        return frozenset(role for term in self.terms for role in term.frozen)

    @model_validator(mode="after")
    def _consistent(self) -> "Round":
        trained = {"student", *self.roles}
        for role in self.turns:
            if role not in trained:
                raise ValueError(f"turns: role '{role}' is brought by no term; the roles are {sorted(trained)}")
        if self.record is not None:
            if self.record.role not in self.turns:
                raise ValueError(f"record: role '{self.record.role}' has no turn")
            trained.discard("student")  # which may rest meanwhile
        for role in sorted(trained - set(self.turns)):
            raise ValueError(f"turns: role '{role}' has no turn")
        offered = {what for term in self.terms for what in term.offers}
        for term in self.terms:
            for what in term.asks:
                if what not in offered:
                    raise ValueError(f"{term.term} needs {OFFERED[what]}")
        judging = any(COMPARED_STATES in term.asks for term in self.terms)
        if (judging or self.inputs != "own") and self.needs.data and self.needs.pairs:
            what = "at: compared" if judging else f"inputs: {self.inputs}"
            raise ValueError(f"{what}: data and pairs in one round have labels of their own, which one term would mix; "
                             "give them rounds of their own")
        for term in self.terms:
            for role in term.trains:
                if role not in {"student", *self.roles}:
                    raise ValueError(f"term '{term.term}' needs the role '{role}', which no term of the round brings")
        return self


class Recipe(Strict):
    """A published system as rounds of terms."""

    name: str
    summary: str = ""
    reference: Reference | None = None
    status: Literal["published", "derived", "own"] = "own"
    published: Published = Published()
    """The settings of the paper, which a run takes with `distill.preset: published`; else it takes those below. The one
    knob by which a run is made smaller or larger is its `images` (in distill() and in params.yaml): every schedule is a
    share of the run."""
    target: Target = "few-step"
    flow_map: bool = False
    """Whether the optimum is the exact map of the teacher's ODE from a noise to its sample, so that student and teacher
    agree sample by sample and not as distributions only."""
    student: StudentSettings = StudentSettings()
    optimiser: OptimiserSettings = OptimiserSettings()
    training: TrainingSettings = TrainingSettings()
    students: Annotated[int, Field(ge=1)] = 1
    """How many students share the classes among them, to be one model in the end; each has rounds of its own."""
    rounds: Annotated[list[Round], Field(min_length=1)]

    @property
    def guidance(self) -> list[Scales]:
        """The scales by which the recipe guides a teacher; not ranges, nor the scale that a student is given."""
        return self._guidance([term for r in self.rounds for term in r.terms if term.needs.teacher])

    @property
    def all_guidance(self) -> list[Scales]:
        """The same, and those of terms that guide the student's own velocity (MeanFlow)."""
        return self._guidance([term for r in self.rounds for term in r.terms])

    def _guidance(self, terms: Sequence[AnyTerm]) -> list[Scales]:
        parts = [getattr(term, name, None) for term in terms for name in ("points", "hop")]
        found = [r.trajectories.guidance for r in self.rounds]
        found += [getattr(part, "guidance", 1.0) for part in (*terms, *parts)]
        return [scales for scales in found if isinstance(scales, float | tuple) and is_guided(scales)]

    def before(self, index: int) -> int | None:
        """The round before round `index` of the same student; None if that is its first."""
        own = [k for k in range(index) if self.rounds[k].student == self.rounds[index].student]
        return own[-1] if own else None

    @property
    def needs(self) -> Needs:
        """What must be there before the first round: pairs and states of the first, data and teacher of any."""
        first, rest = self.rounds[0].needs, [r.needs for r in self.rounds[1:]]
        paired = any(r.needs.pairs and r.teacher != "previous" for r in self.rounds)
        teacher = self.student.init == "teacher" or any(n.teacher for n in (first, *rest)) or paired
        data = first.data or any(n.data for n in rest)
        return Needs(data=data, pairs=first.pairs, states=first.states, teacher=teacher)

    @property
    def finest(self) -> int:
        """Steps of the finest grid of any round within one of the final student's."""
        return max(r.parts for r in self.rounds)

    def override(self, overrides: Overrides) -> "Recipe":
        """This recipe with the settings of params.yaml over it. Raises SettingsError where they do not fit together."""
        chosen = overrides.model_dump(exclude_none=True)
        data = self.model_dump(mode="json")
        sections = {"student": StudentSettings, "optimiser": OptimiserSettings, "training": TrainingSettings}
        for section, model in sections.items():
            data[section].update({key: chosen[key] for key in chosen.keys() & model.model_fields.keys()})
        return parse(Recipe, data, f"recipe {self.name}")

    def preset(self, name: Preset) -> "Recipe":
        """This recipe with what its paper sets over it (published), or as it is (small).

        Raises SettingsError where that does not fit together.
        """
        if name == "small" or not self.published.sets:
            return self
        data = self.model_dump(mode="json")
        self.published.over(data)
        return parse(Recipe, data, f"recipe {self.name}, as published")

    def images_of(self, index: int, images: int) -> int:
        """Training samples of round `index` in a run of `images`: whole batches, at least one cycle of turns.

        And at least one batch for each checkpoint that it records.
        """
        own, total = self.rounds[index], sum(r.share for r in self.rounds)
        least = max(sum(own.turns.values()), own.record.count if own.record else 0)
        batches = max(round(images * own.share / total / self.training.batch), least)
        return batches * self.training.batch

    def images_for(self, batches: int) -> int:
        """Training samples of a run whose shortest round has about so many batches."""
        least = min(own.share for own in self.rounds) / sum(own.share for own in self.rounds)
        return int(batches * self.training.batch / least)

    def resolved(self) -> dict[str, Any]:
        """All settings, defaults included, as plain data: what a key or an identity is formed from."""
        return self.model_dump(mode="json", exclude=DESCRIBES | {"target", "flow_map"})

    @model_validator(mode="after")
    def _consistent(self) -> "Recipe":
        batch, parts, passes = self.training.batch, self.training.parts, self.training.accumulate
        if batch % (parts * passes):
            raise ValueError(f"training: {parts} parts in {passes} passes each do not divide the batch of {batch}")
        if self.published.sets:  # what it names must be there
            self.published.over(self.model_dump(mode="json"))
        if {r.student for r in self.rounds} != set(range(1, self.students + 1)):
            raise ValueError(f"rounds: each of the students 1 ... {self.students} needs a round, and no other")
        for index, own in enumerate(self.rounds):
            before = self.before(index)
            if before is None and "previous" in (own.teacher, own.start):
                raise ValueError(f"rounds.{index}: there is no round before the first")
            if own.teacher == "recorded" and (before is None or self.rounds[before].record is None):
                raise ValueError(f"rounds.{index}: the round before records no checkpoints")
            if any(merged.round > index for merged in own.merge) or sum(m.weight for m in own.merge) > 1:
                raise ValueError(f"rounds.{index}.merge: shares of earlier rounds, of 1 at most in sum")
            if any(self.finest % (own.times_steps * term.parts) for term in own.terms):
                raise ValueError(f"rounds.{index}: its steps do not divide the finest, {self.finest} to a final one")
        if any(r.times_steps != 1 for r in {r.student: r for r in self.rounds}.values()):
            raise ValueError("times_steps: the last round takes the steps of the final student, 1 times student.steps")
        if self.student.steps > 1 and all(t.term == "regression" and t.at == "noise" for t in self.rounds[-1].terms):
            raise ValueError(
                f"student.steps: {self.student.steps}, but regression at noise trains a single step; "
                "set `at: states` or steps: 1"
            )
        paired = [term.term for own in self.rounds for term in own.terms if term.second_time]
        if paired and not self.student.second_time:
            raise ValueError(f"rounds: {paired[0]} needs a student of two times; set student.second_time")
        if self.flow_map and self.target not in ("few-step", "guided", "guidance", "compression"):
            raise ValueError(f"flow_map: a {self.target} student does not follow the teacher's ODE")
        return self


def check_needs(recipe: Recipe, *, data: bool, pairs: bool, teacher: bool = True) -> None:
    """Raises SettingsError if something that the recipe needs is not there."""
    needs = recipe.needs
    for wanted, there, what in (
        (needs.data, data, "real data"),
        (needs.pairs, pairs, "cached pairs of the teacher"),
        (needs.teacher, teacher, "a teacher"),
    ):
        if wanted and not there:
            raise SettingsError(f"recipe {recipe.name} needs {what}, which these settings do not give")
