"""params.yaml: its sections, with their types and ranges. No torch here."""

from __future__ import annotations

import math
import re
import warnings
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator

from fewstep.diffusion.guidance import SampledScales
from fewstep.recipes.published import Preset
from fewstep.recipes.training_settings import Overrides
from fewstep.students.export_form import Form
from fewstep.util.config import Strict
from fewstep.util.pixel_sizes import PATTERN, size_of_text
from tasks.config.stack_settings import Stack

Count = Annotated[int, Field(ge=1)]
Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
ExtractorName = Literal["inception", "dinov2", "clip", "clip_tokenizer", "clap", "clap_tokenizer"]
Parallel = Literal["replicate", "shard"]
Steps = Annotated[tuple[Count, ...], Field(min_length=1)]
SIZES = (4, 1024)
"""Least and greatest data.size, in pixels; one that is found from the images is held to it too."""
_LONGEST = 4096     # side of one of data.sizes


def _usable(size: str) -> str:
    if not all(SIZES[0] <= side <= _LONGEST for side in size_of_text(size)):
        raise ValueError(f"{size}: sides are {SIZES[0]} … {_LONGEST} pixels")
    return size


PixelSize = Annotated[str, Field(pattern=f"^{PATTERN}$"), AfterValidator(_usable)]


class Split(Strict):
    """Shares of the images, by hash of the image: training, fitting the classifier, reference."""

    train: Share = 0.6
    fit: Share = 0.15
    test: Share = 0.25

    @model_validator(mode="after")
    def _sums_to_one(self):
        if not math.isclose(self.train + self.fit + self.test, 1, abs_tol=1e-6):
            raise ValueError(f"the shares must add up to 1, they add up to {self.train + self.fit + self.test:g}")
        return self


class Data(Strict):
    """The images: `digits` comes with scikit-learn; `raw` is what `fewstep data add PATH` brought into data/raw.

    `prompts`: a file of prompts for a teacher of texts, beside the images of `raw` or in the place of the digits. With
    prompts and no images, students are compared with what the teacher draws of the prompts.
    `conditions`: a sample is asked for by its text, or for a teacher that also sees an image (one that inpaints, say)
    by its text and its image: then every image is a condition of its own.
    `sizes`: WIDTHxHEIGHT of several (aspect buckets), in the place of `size`: an image gets the one whose shape is
    nearest to its own, and a prompt that asks for none the first, at which models are judged.
    """

    source: Literal["digits", "raw"] = "digits"
    prompts: Annotated[str, Field(min_length=1)] | None = Field(default=None, exclude_if=lambda path: path is None)
    conditions: Literal["text", "image"] = Field(default="text", exclude_if=lambda told: told == "text")
    size: Annotated[int, Field(ge=SIZES[0], le=SIZES[1])] | None = None  # null: the one that most images have
    sizes: Annotated[tuple[PixelSize, ...], Field(min_length=1)] | None = Field(
        default=None, exclude_if=lambda sizes: sizes is None)
    channels: Literal[1, 3] | None = None                        # null: 1 when every image is grey
    max_corrupt_share: Share = 0.01
    split: Split = Split()
    record_size: Count = 256
    records_per_shard: Count = 8

    @model_validator(mode="after")
    def _one_way_to_say_it(self):
        if self.sizes is not None and self.size is not None:
            raise ValueError("give size, or sizes in its place")
        if self.sizes is not None and len(set(self.sizes)) < len(self.sizes):
            raise ValueError("sizes: one of them is there twice")
        return self


class TeacherCheck(Strict):
    """What a teacher must fulfil. Distances are sliced Wasserstein, relative to real against real."""

    samples: Annotated[int, Field(ge=16)] = 512
    steps: Count = 32
    max_distance_ratio: Positive = 4.0
    max_terminal_snr: Positive = 0.01


def _with_equal_parts(training):
    """Raises ValueError unless the parts of a training's batch are of equal size."""
    if training.batch % training.parts:
        raise ValueError(f"parts: {training.parts} do not divide the batch of {training.batch}")
    return training


class TeacherTraining(Strict):
    """The network of a teacher that is trained here, and how it is trained."""

    images: Count = 250_000
    batch: Count = 128
    parts: Count = Field(default=1, exclude_if=lambda parts: parts == 1)      # of a batch, which processes may share
    lr: Positive = 1.5e-3
    channels: Annotated[tuple[Count, ...], Field(min_length=1, max_length=6)] = (32, 32)
    layers: Annotated[int, Field(ge=1, le=8)] = 1
    class_dropout: Share = 0.1
    groups: tuple[tuple[Annotated[int, Field(ge=0)], ...], ...] = ()  # of classes; share class_dropout with no class
    ema: Share = 0.02                               # half-life of the average, as a share of the images; 0: none
    check: TeacherCheck = TeacherCheck()

    _parts_are_equal = model_validator(mode="after")(_with_equal_parts)

    @model_validator(mode="after")
    def _groups_are_learnt(self):
        if self.groups and not self.class_dropout:
            raise ValueError("groups: their labels are learnt in the share of class_dropout, which is 0")
        return self


class FineTuning(Strict):
    """How a given teacher is trained further on the data, by denoising score matching, before it is distilled."""

    images: Count = 100_000
    batch: Count = 32
    parts: Count = 1                                # of a batch, which processes may share
    lr: Positive = 1e-5
    dropout: Share = 0.1                            # of samples that go without their text or class, for guidance
    ema: Share = 0.02                               # half-life of the average, as a share of the images; 0: none
    precision: Literal["auto", "float32", "bfloat16", "float64"] = "auto"

    _parts_are_equal = model_validator(mode="after")(_with_equal_parts)


class Teacher(TeacherTraining):
    """A network trained here, or `source`: the folder of a saved diffusers pipeline (`path` says the same), which is
    taken as it is or, with `finetune`, trained further first."""

    source: str = "train"
    path: str | None = None
    variant: str | None = None                                   # of a given teacher's weights: fp16; null: plain
    finetune: FineTuning | None = None

    @field_validator("source", "path")
    @classmethod
    def _not_empty(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("expected 'train' or the path of a saved pipeline, got an empty text")
        return value

    @model_validator(mode="after")
    def _one_source(self):
        if self.path is not None and self.source not in ("train", self.path):
            raise ValueError(f"source is {self.source!r} and path is {self.path!r}: give one of them")
        return self

    @model_validator(mode="after")
    def _a_given_one_is_trained_further(self):
        if self.finetune is not None and self.given is None:
            raise ValueError("finetune: goes with a given teacher, and source is train; set source to its folder")
        return self

    @property
    def given(self) -> str | None:
        """The path of a teacher that is not trained here, else None."""
        return self.path or (None if self.source == "train" else self.source)


class Encode(Strict):
    """How a given pipeline's texts and images are encoded; null: as the pipeline does where nobody says.

    `arguments`: further ones of the pipeline's call, alike for all samples.
    """

    height: Count | None = None
    width: Count | None = None
    num_frames: Count | None = None
    max_sequence_length: Count | None = None
    negative_prompt: str | None = None
    arguments: dict[str, str | int | float | bool | None] = {}
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    batch: Count = 16
    max_truncated_share: Share = 0.05
    max_bytes: Count = 64_000_000_000

    @property
    def of_call(self) -> dict[str, Any]:
        """The arguments of the pipeline's call that are chosen here."""
        named = self.model_dump(include={"height", "width", "num_frames", "max_sequence_length"})
        return {name: value for name, value in named.items() if value is not None} | self.arguments

    @model_validator(mode="after")
    def _both_sides(self):
        if (self.height is None) != (self.width is None):  # some pipelines then take neither, without a word
            raise ValueError("give height and width, or neither")
        return self


class Trajectories(Strict):
    """The teacher's outputs that a recipe trains on. `keep`: states along the way, null leaves it to the recipe."""

    count: Count = 8192
    solver: str = "dpmsolver++"
    steps: Count = 16
    guidance: SampledScales = 1.0
    keep: Literal["all"] | tuple[Annotated[int, Field(ge=0)], ...] | None = None
    record_size: Count | Literal["auto"] = 256                   # samples, the teacher's batch; auto: by their bytes
    records_per_shard: Count = 8
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    precision: Literal["float32", "bfloat16"] = "float32"
    compile: Literal["auto"] | bool = "auto"                     # auto: where the set is long enough to pay for it
    workers: Annotated[int, Field(ge=1, le=256)] | None = None   # null: one per CPU core; changes no byte


class Distill(Overrides):
    """The recipe and its length; what Overrides has replaces the recipe's own settings where it is given.

    `preset`: small, or published for what the recipe's paper sets (learning rate, batch, …); Overrides stand over both.
    `export`: what a given pipeline's student leaves as: a pipeline, `lora` for load_lora_weights, or the network.
    `gradient_checkpointing`, `ema_device`: less memory on the device for more time (`fewstep estimate`); they change
    no byte, but for checkpointing where the recipe takes forward derivatives.
    """

    recipe: str = "kd"
    preset: Preset = "small"
    images: Count = 200_000
    export: Form = "pipeline"
    checkpoint_images: Count | None = None                       # null: by time; changes no byte
    gradient_checkpointing: bool = False                         # activations of blocks computed anew
    ema_device: Literal["cpu"] | None = None                     # of averages and other copies; null: with the student


class Classifier(Strict):
    """The network whose features the distances are measured in; `features` is their number."""

    images: Count = 60_000
    batch: Count = 128
    lr: Positive = 2e-3
    features: Annotated[int, Field(ge=2, le=16)] = 16


class Evaluate(Strict):
    """How students and baselines are measured. `samples`: of every model; with prompts and no images also of the
    teacher, in each split, as the reference (drawn by trajectories.solver, steps and guidance). `steps`: of the
    student; null: those that its recipe trains it for. `baseline_steps`: network evaluations of every solver; null: 1,
    2, 4, 8, and 16 of the teacher's own alone. `extractors`: further features, by the hash of their local files;
    `clip_tokenizer` beside `clip`, of sound `clap_tokenizer` beside `clap`,
    compares samples with texts too."""

    samples: Annotated[int, Field(ge=32)] = 5000
    steps: Steps | None = None
    baseline_steps: Steps | None = None
    solvers: Annotated[tuple[str, ...], Field(min_length=1)] = ("ddim", "dpmsolver++", "unipc", "heun")
    guidance: SampledScales = 1.0
    batch: Count = 500
    seed: int = 1_000_003                                         # held out: training never draws from it
    grid: Annotated[int, Field(ge=1, le=32)] = 10
    classifier: Classifier = Classifier()
    extractors: dict[ExtractorName, Sha256] = {}


class Floors(Strict):
    """A student that misses one of these is not promoted. Null: not asked."""

    max_distance_ratio: Positive | None = 0.5        # to the best training-free solver's at equal evaluations
    min_class_accuracy: Share | None = 0.8
    min_retrieval: Share | None = None               # of prompts: share found among 64; classes are not asked it
    min_text_alignment: Annotated[float, Field(ge=-1, le=1)] | None = None
    min_recall: Share | None = 0.3
    max_copies: Share | None = 0.3                   # share nearer to training images than 95 % of held-out ones are


class Margins(Strict):
    """How much worse than the champion's a gated figure may be. Kernel distances are in the features' own scale."""

    kid: Positive = 0.01
    class_kid: Positive = 0.2
    class_accuracy: Positive = 0.02
    accuracy_in_class: Positive = 0.1
    retrieval: Positive = 0.02
    retrieval_in_group: Positive = 0.1
    copies: Positive = 0.05
    repeats: Positive = 0.02


class Gate(Strict):
    """The test against the champion: `level` of each error, `power` asked for, and what `cheaper` means."""

    level: Annotated[float, Field(gt=0, le=0.2)] = 0.05
    power: Annotated[float, Field(gt=0, lt=1)] = 0.8
    cheaper: Annotated[float, Field(gt=0, lt=1)] = 0.1     # share of evaluations or parameters saved by an equal model
    margins: Margins = Margins()
    approval_hours: Positive = 72.0                        # how long a decision waits for a person


class Register(Strict):
    """What happens with the student: `first` promotes it when there is no champion and the floors hold."""

    promote: Literal["never", "first", "gated"] = "first"
    floors: Floors = Floors()
    samples: Annotated[int, Field(ge=32)] | None = None    # of the gate's paired test; null: as in evaluate
    gate: Gate = Gate()


# pydantic remarks that classes have a method `register`; instances, which is what we read, do not use it.
warnings.filterwarnings("ignore", message='Field name "register".*shadows')


class UnitResources(Strict):
    """What an engine of several machines gives each unit: CPU cores, GPUs (null: with Ray and in a Slurm job one if
    there are any, in a Slurm job of its own what the partition gives), and how many units it does at once at most."""

    cpus: Annotated[int, Field(ge=1, le=1024)] = 1
    gpus: Annotated[int, Field(ge=0, le=64)] | None = None
    most: Annotated[int, Field(ge=1, le=10_000)] = 64


class Compute(Strict):
    """With what it is computed; changes no byte but through the fingerprint.

    processes: of each node that share the parts of a training batch (teacher.parts, distill.parts); null: one for each
    GPU, without any one for each CPU core.
    nodes: that train together, the run's own among them: of the Slurm job that it is in (on: slurm), of the Ray cluster
    (on: ray), workers of the pool (on: pool:NAME), or those where `launch` starts a process by the number in
    FEWSTEP_NODE (on: command).
    parallel: what each of them holds: `replicate`, all networks, in any number the same bits; or `shard`, some rows of
    every parameter, for networks that do not fit on one device. Sums then come in an order that depends on their
    number, which the fingerprint names.
    reshard: whether a training under way goes on with another number of processes that hold rows (or one that holds
    all) than the number that its checkpoint is of, which is refused otherwise: the bits are then those of neither.
    on: where the units of encode, trajectories, reference, baselines and evaluate are done: `local` (threads of the
    run), `processes` (one for each GPU, without any one for each core), `ray` (the Ray cluster that this host belongs
    to), `ray://HOST:PORT`, `slurm` or `slurm:PARTITION` (jobs by srun), `pool:NAME` (flow runs of a Prefect work pool),
    or `command`; null: processes if there are several GPUs, else local.
    launch: for `command`, what starts `python -m tasks.unit` elsewhere and carries its standard input and output:
    `kubectl run -i … -- python -m tasks.unit`, `docker run -i …`, `ssh HOST …`.
    units: what each unit gets in a cluster.
    side_by_side: whether two stages that do not read each other go at once (trajectories beside the classifier,
    baselines beside the distillation), the second in a process of its own: true, false, or null: where `processes`
    leaves a GPU free. The second stage has the GPUs, or without any the cores, that are left free; all where none is.
    Its process starts anew for each stage, in seconds: on two cores that a training uses already a run took longer so.
    """

    processes: Annotated[int, Field(ge=1, le=4096)] | None = None
    nodes: Annotated[int, Field(ge=1, le=4096)] = 1
    parallel: Parallel = "replicate"
    reshard: bool = False
    on: str | None = None
    launch: Annotated[str, Field(min_length=1)] | None = None
    units: UnitResources = UnitResources()
    side_by_side: bool | None = None

    @field_validator("on")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        known = r"local|processes|command|ray|ray://[^\s/:]+:\d+|slurm(:[\w.-]+)?|pool:[^\s/%&]+"
        if value is None or re.fullmatch(known, value):
            return value
        raise ValueError("expected local, processes, ray, ray://HOST:PORT, slurm, slurm:PARTITION, pool:NAME or "
                         f"command, got {value!r}")

    @model_validator(mode="after")
    def _launched(self) -> Compute:
        if self.on == "command" and self.launch is None:
            raise ValueError("on: command needs launch: what starts `python -m tasks.unit` elsewhere")
        if self.nodes > 1 and (self.on or "local").partition(":")[0] in ("local", "processes"):
            raise ValueError(f"nodes: {self.nodes} needs on: slurm, ray, pool:NAME or command, which start processes "
                             "on the others")
        return self


class Settings(Strict):
    """Everything in params.yaml."""

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9._-]{0,63}$")] = "digits"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    profile: Literal["local", "server"] = "local"
    data: Data = Data()
    teacher: Teacher = Teacher()
    encode: Encode = Encode()
    trajectories: Trajectories = Trajectories()
    distill: Distill = Distill()
    evaluate: Evaluate = Evaluate()
    register: Register = Register()
    compute: Compute = Compute()
    stack: Stack = Stack()

    @field_validator("profile", mode="before")
    @classmethod
    def _no_cluster_yet(cls, value: Any) -> Any:
        if value == "cluster":
            raise ValueError("the profile 'cluster' is not available yet; use 'local' or 'server'")
        return value
