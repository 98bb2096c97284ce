"""From a teacher and settings to everything that determines a set: its key fields and its division into records."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.guidance import is_guided, told
from fewstep.diffusion.solvers import is_stochastic, network_evaluations
from fewstep.trajectories.keyed_labels import EACH_ONCE, UNIFORM
from fewstep.trajectories.record_size import auto_record_size
from fewstep.trajectories.set_identity import code_digest
from fewstep.trajectories.trajectory_settings import TrajectorySettings
from fewstep.util.compiling import pays
from fewstep.util.device import device_of, indexed
from fewstep.util.errors import SettingsError, laid_at
from fewstep.util.hashing import sha256_json

_CONTENT = "fewstep-trajectory-record-1"


@dataclass(frozen=True)
class SetPlan:
    """A set to be made.

    Attributes:
        settings: with ``compile`` resolved to true or false, and ``record_size`` to a number: from themselves and the
            shape alone, so that a set that is gone on with is the same set.
        record_size: samples per record.
        seed: of noise and conditions.
        shape: (C, H, W) of a sample.
        num_classes: 0 for an unconditional teacher.
        among: (n,) the conditions to take; None: all.
        device: where the teacher is run.
        fields: everything that determines the bytes of a record, as JSON; the count is not among it.
        automatic: whether ``compile`` was left open: a machine that cannot compile then runs the network as it is.
    """

    settings: TrajectorySettings
    record_size: int
    seed: int
    shape: tuple[int, ...]
    num_classes: int
    among: Tensor | None
    device: torch.device
    fields: dict
    automatic: bool = False

    @property
    def id(self) -> str:
        """16 hexadecimal digits that name this set, its count included."""
        return sha256_json({"fields": self.fields, "count": self.settings.count})[:16]

    @property
    def records(self) -> int:
        """Number of records; the last is as long as the others, its samples beyond ``count`` wait for a larger set."""
        return -(-self.settings.count // self.record_size)

    @property
    def shards(self) -> int:
        """Number of shards."""
        return -(-self.records // self.settings.records_per_shard)

    def records_of(self, shard: int) -> list[int]:
        """Numbers of the records in shard number ``shard``."""
        first = shard * self.settings.records_per_shard
        return list(range(first, min(first + self.settings.records_per_shard, self.records)))

    def indices_of(self, record: int) -> Tensor:
        """Sample indices in record number ``record``, (record_size,) int64."""
        first = record * self.record_size
        return torch.arange(first, first + self.record_size)


def plan_set(
    denoiser: Denoiser,
    settings: TrajectorySettings,
    *,
    seed: int,
    teacher_digest: str,
    prompts_digest: str = "",
    num_classes: int | None = None,
    device: torch.device | str | None = None,
    code: str | None = None,
) -> SetPlan:
    """Check that ``denoiser`` can make what ``settings`` ask for, and say what that is.

    Args:
        denoiser: the teacher.
        settings: of the set.
        seed: of noise and conditions.
        teacher_digest: hash of the teacher's weights and configuration.
        prompts_digest: hash of the table of conditions, for a teacher that takes one.
        num_classes: classes that conditions are drawn from; default: the teacher's.
        device: where the teacher is to be run; default: where it lies. It is not part of ``fields``: which device made
            a record stands among the backends (see :func:`fewstep.trajectories.set_identity.set_key`).
        code: what identifies the code that makes the set; default: the digest of fewstep's. A caller that keeps account
            of the code by itself gives a constant: the set then has the same bytes whatever code made its records.

    Raises:
        SettingsError: an unknown or stochastic solver, guidance for a teacher without a null class, bfloat16 or
            compilation for a teacher without weights, states that the solver does not pass.
    """
    classes = denoiser.num_classes if num_classes is None else num_classes
    if not 0 <= classes <= denoiser.num_classes:
        raise SettingsError(f"trajectories: {classes} classes, the teacher has {denoiser.num_classes}")
    if is_guided(settings.guidance) and not classes:
        raise SettingsError(f"trajectories.guidance: {told(settings.guidance)} needs a teacher with classes")
    with laid_at("trajectories.guidance"):
        denoiser.require_guidance(settings.guidance)
    weights = any(True for _ in denoiser.parameters())
    if settings.precision != "float32" and not weights:
        raise SettingsError(f"trajectories.precision: {settings.precision} needs a teacher with weights")
    evaluations = network_evaluations(settings.solver, settings.steps, settings.guidance)
    if is_stochastic(settings.solver):
        raise SettingsError(f"trajectories.solver: {settings.solver} draws noise; use a deterministic solver")
    if isinstance(settings.keep, tuple) and any(state >= settings.steps for state in settings.keep):
        raise SettingsError(f"trajectories.keep: states are 0 … {settings.steps - 1}, got {list(settings.keep)}")
    compiled = settings.compile
    if compiled == "auto":
        compiled = weights and pays(evaluations * settings.count * operations(denoiser))
    elif compiled and not weights:
        raise SettingsError("trajectories.compile: true needs a teacher with weights")
    size = settings.record_size
    if size == "auto":
        states = settings.steps if settings.keep == "all" else len(settings.keep or ())
        size = auto_record_size(denoiser.sample_shape, states, settings.dtype)
    resolved = settings.model_copy(update={"compile": compiled, "record_size": size})
    fields = {
        "content": _CONTENT,
        "teacher": teacher_digest,
        "process": sha256_json(denoiser.process.to_dict()),
        "prediction": denoiser.prediction_type,
        "shape": list(denoiser.sample_shape),
        "condition": _condition_source(denoiser, classes, prompts_digest),
        "negative": "null class" if is_guided(settings.guidance) else "none",
        "evaluations": evaluations,
        "seed": seed,
        "code": code_digest() if code is None else code,
        **resolved.model_dump(mode="json", exclude={"count"}),
    }
    place = device_of(denoiser) if device is None else indexed(device)
    among = denoiser.trained_rows if classes else None
    return SetPlan(resolved, size, seed, tuple(denoiser.sample_shape), classes, among, place, fields,
                   automatic=settings.compile == "auto")  # fmt: skip


def _condition_source(denoiser: Denoiser, classes: int, prompts_digest: str) -> dict[str, Any]:
    if not classes:
        return {"source": "none"}
    if denoiser.table is None:
        return {"source": UNIFORM, "classes": classes}
    among = denoiser.trained_rows
    kept = {} if among is None else {"among": sha256_json(among.tolist())}
    return {"source": EACH_ONCE, "classes": classes, "prompts": prompts_digest, **kept}


def operations(denoiser: Denoiser) -> int:
    """Floating-point operations of one network evaluation of one sample, counted by running one."""
    x = torch.zeros((1, *denoiser.sample_shape), device=device_of(denoiser))
    condition = denoiser.any_condition(1, x.device)
    time = torch.full((1,), float(denoiser.process.t_max), device=x.device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        denoiser.x0(x, time, condition)
    return counter.get_total_flops()
