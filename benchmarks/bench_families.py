"""Teachers of texts: the encode stage, trajectories and training steps against bare calls of the same networks.

    python -m benchmarks.bench_families [--rounds N] [--json FILE] [--markdown FILE]

A Stable Diffusion (UNet2DConditionModel) and a PixArt (a transformer), built here, of some million parameters, on
latents of 4 x 16 x 16. Encoding is what `fewstep run` does of a block of texts, by an encoder as large as that of
Stable Diffusion 1.5, or of images, checked and packed; beside it are text encoder and autoencoder called by hand in the
same batches. Trajectories are guided, written and synced; beside them are the network's calls. Training is as in
bench_training. One thread, processor time.
"""

from __future__ import annotations

import copy
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers
from torch import Tensor

from benchmarks import measure
from benchmarks.bench_training import LIMIT, trainer_of
from benchmarks.bench_trajectories import Stage
from benchmarks.replay import Minimal
from fewstep.data.images import ImageSetWriter
from fewstep.data.prompt import Prompt
from fewstep.data.records import encode_record
from fewstep.diffusion.denoiser import Denoiser
from fewstep.diffusion.network_call import nested
from fewstep.families.encoded_set import CONDITIONS
from fewstep.families.recorded_conditions import table_of
from fewstep.teachers import inspect_teacher, load_teacher
from fewstep.util.quiet_libraries import quiet_libraries
from tasks.config.schema import Encode
from tasks.data.teacher_encoding import TeacherEncoding
from tests.fewstep.families import pipelines
from tests.fewstep.families.pipelines import Kind

TEXTS, BATCH, RECORD, TRAINED = 128, 16, 16, 16
STEPS, GUIDANCE = 8, 4.0
RECIPES = ("lcm", "dmd2")
_WIDTH = 128


def stable_diffusion(width: int = _WIDTH, layers: int = 4) -> Any:
    """Of a UNet of two resolutions with attention to texts, which so many layers encode."""
    encoder = transformers.CLIPTextModel(transformers.CLIPTextConfig(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=width // 32, num_hidden_layers=layers,
        vocab_size=800, max_position_embeddings=pipelines.LENGTH, bos_token_id=0, eos_token_id=1, pad_token_id=1))
    unet = pipelines.text_unet(block_out_channels=(64, 128), cross_attention_dim=width, norm_num_groups=16)
    return diffusers.StableDiffusionPipeline(
        vae=_autoencoder(), text_encoder=encoder, tokenizer=pipelines.clip_tokenizer(), unet=unet,
        scheduler=pipelines.ddim(steps_offset=1), safety_checker=None, feature_extractor=None,
        requires_safety_checker=False)


def pixart() -> Any:
    """Of a transformer of four blocks."""
    transformer = diffusers.PixArtTransformer2DModel(
        sample_size=16, num_layers=4, patch_size=2, attention_head_dim=32, num_attention_heads=4, caption_channels=32,
        in_channels=4, cross_attention_dim=_WIDTH, out_channels=8, attention_bias=True, norm_type="ada_norm_single",
        norm_elementwise_affine=False)
    return diffusers.PixArtSigmaPipeline(
        transformer=transformer, vae=_autoencoder(), scheduler=diffusers.DDIMScheduler(), text_encoder=pipelines.t5(),
        tokenizer=pipelines.t5_tokenizer())


def _autoencoder() -> Any:
    return diffusers.AutoencoderKL(
        block_out_channels=(32, 64), down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2, latent_channels=4, norm_num_groups=16)


KINDS = {
    "UNet2DConditionModel": Kind(stable_diffusion),
    "PixArtTransformer2DModel": Kind(pixart, {"height": 32, "width": 32, "use_resolution_binning": False,
                                              "clean_caption": False, "max_sequence_length": pipelines.LENGTH}),
}  # fmt: skip


def texts() -> list[str]:
    """Different captions."""
    return [f"{line} number {k}" for k in range(TEXTS // len(pipelines.LINES) + 1) for line in pipelines.LINES][:TEXTS]


@cache
def loaded(kind: str) -> Denoiser:
    """The teacher of a kind, with conditions of its pipeline."""
    with tempfile.TemporaryDirectory() as folder:
        pipe = KINDS[kind].save(Path(folder))
        denoiser = load_teacher(folder, arguments=KINDS[kind].arguments)
    return denoiser.take(table_of(pipe, denoiser.family, texts()[:RECORD]))


def encoding(folder: Path) -> TeacherEncoding:
    """The encode stage's work on captioned images of noise for the UNet's pipeline, with a text encoder as wide and
    deep as that of Stable Diffusion 1.5: what the stage does beside its calls is told against calls people wait for."""
    Kind(partial(stable_diffusion, width=768, layers=12)).save(folder / "teacher")
    (folder / "shards").mkdir()
    writer = ImageSetWriter(folder / "shards", (3, 32, 32), (), {"train": 1.0, "fit": 0.0, "test": 0.0})
    source = torch.Generator().manual_seed(0)
    for number, text in enumerate(texts()):
        image = torch.randint(0, 256, (3, 32, 32), generator=source, dtype=torch.uint8)
        writer.add(image, -1, str(number), Prompt(text), "train")
    writer.finish()
    return TeacherEncoding(inspect_teacher(folder / "teacher"), folder / "shards", Encode(batch=BATCH), 0, print)


def encode_variants(stage: TeacherEncoding) -> dict[str, Callable[[], object]]:
    """Ours and calls by hand, for texts and for images."""
    pipe = stage.pipe
    images = stage.images["train"].images()

    @torch.no_grad()
    def by_hand_texts() -> list[Tensor]:
        tokens = pipe.tokenizer(texts(), padding="max_length", truncation=True, return_tensors="pt").input_ids
        return [pipe.text_encoder(some)[0] for some in tokens.split(BATCH)]

    @torch.no_grad()
    def by_hand_images() -> list[Tensor]:
        return [pipe.vae.encode(some).latent_dist.mean for some in images.split(BATCH)]

    return {"encode, texts": lambda: encode_record(stage.block(CONDITIONS, 0, TEXTS)),
            "encode, texts, bare encoder": by_hand_texts,
            "encode, images": lambda: encode_record(stage.block("train", 0, TEXTS)),
            "encode, images, bare encoder": by_hand_images}  # fmt: skip


def trajectory_variants(kind: str, folder: Path) -> dict[str, Callable[[], object]]:
    """A guided set of one record, and the calls of the network in it."""
    denoiser = copy.deepcopy(loaded(kind))
    stage = Stage(denoiser, RECORD, 1, folder, steps=STEPS, record=RECORD, guidance=GUIDANCE)
    call, table = denoiser.family.call, denoiser.table
    rows = torch.cat([table.nulls, torch.arange(len(table.nulls))])
    given = nested({call.state: torch.randn((2 * RECORD, *denoiser.sample_shape)), **call.constants, **table.read(rows),
                    call.time: torch.full((2 * RECORD,), 500.0)})  # fmt: skip

    def bare() -> None:
        with torch.inference_mode():
            for _ in range(STEPS):
                stage.teacher.network(**given, return_dict=False)

    name = f"trajectories of a {kind}"
    return {name: stage, f"{name}, bare calls": bare}


def training_variants(kind: str, recipe: str, folder: Path) -> tuple[dict[str, Callable[[], object]], int]:
    """A recipe's steps and its minimal loop, and the samples that each takes."""
    trainers = [trainer_of(recipe, 0, folder / part, TRAINED, 1, lambda: copy.deepcopy(loaded(kind)), 64)
                for part in ("ours", "theirs")]
    name = f"{recipe}, {kind}"

    def ours() -> None:
        trainers[0].state._trained = None   # its end froze the weights, and it is run again
        trainers[0].run()

    return ({name: ours, f"{name}, minimal loop": Minimal(trainers[1]).run}, trainers[0].steps * TRAINED)


def measured(title: str, work: dict[str, Callable[[], object]], amounts: dict[str, int], rounds: int, least: float,
             unit: str) -> tuple[str, dict[str, Any]]:  # fmt: skip
    """A table of pairs, of ours and of what stands beside it, and its figures."""
    rate = measure.rates(measure.take_turns(work, rounds, time.process_time), amounts)
    names = list(work)
    goals = [measure.goal(f"{ours} over {beside.rpartition(', ')[2]}", measure.ratio(rate, ours, beside), least)
             for ours, beside in zip(names[::2], names[1::2], strict=True)]  # fmt: skip
    figures = {"rate": {name: statistics.median(values) for name, values in rate.items()}, "goals": goals}
    return measure.table(title, rate, goals, unit), figures


def main(arguments: list[str] | None = None) -> dict:
    """Measure, print and return the figures."""
    options = measure.parser(__doc__.splitlines()[0]).parse_args(arguments)
    torch.set_num_threads(1)
    report = partial(measured, rounds=options.rounds, unit="samples per processor second")
    with tempfile.TemporaryDirectory() as scratch, quiet_libraries():
        folder = Path(scratch)
        work = encode_variants(encoding(folder))
        parts = [report("Encoding texts and images of a Stable Diffusion", work, dict.fromkeys(work, TEXTS), least=0.9)]
        work = {name: one for kind in KINDS for name, one in trajectory_variants(kind, folder / kind).items()}
        title = f"Trajectories of teachers of texts, guided, {STEPS} steps"
        parts.append(report(title, work, dict.fromkeys(work, RECORD), least=0.95))
        work, amounts = {}, {}
        for kind in KINDS:
            for recipe in RECIPES:
                found, amount = training_variants(kind, recipe, folder / f"{kind}-{recipe}")
                work, amounts = work | found, amounts | dict.fromkeys(found, amount)
        title = f"Training steps on teachers of texts, batch {TRAINED}"
        parts.append(report(title, work, amounts, least=round(LIMIT, 3)))
    sizes = {kind: sum(p.numel() for p in loaded(kind).parameters()) for kind in KINDS}
    told = ", ".join(f"{kind} {size / 1e6:.2f} M" for kind, size in sizes.items())
    figures = {"parameters": sizes, "parts": [part for _, part in parts]}
    measure.publish(options, "\n".join([*(text for text, _ in parts), f"Parameters: {told}.\n"]), figures)
    return figures


if __name__ == "__main__":
    main()
