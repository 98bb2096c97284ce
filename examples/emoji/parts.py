"""The parts of the example in a work folder, each made once: what is there is read, what was stopped goes on."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import diffusers
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from examples.emoji.autoencoder import encode, train_autoencoder
from examples.emoji.compositions import Composition, all_compositions, spread
from examples.emoji.drawing import SIZE, draw_all
from examples.emoji.judge import as_tensor, fit_judge
from examples.emoji.requirements import require
from examples.emoji.settings import STUDENT_STEPS, EmojiSettings
from examples.emoji.teacher import new_pipeline, teacher_of, train_teacher
from fewstep.diffusion.denoiser import Denoiser
from fewstep.networks.feature_classifier import Classifier
from fewstep.networks.feature_files import load_features, save_features
from fewstep.recipes import Overrides, load_recipe
from fewstep.students.student import Student
from fewstep.training import distill
from fewstep.util.checked_json import read_checked, write_checked
from fewstep.util.errors import SettingsError
from fewstep.util.files import replacing

FORMAT = "fewstep-emoji-1"


class Parts:
    """Autoencoder, teacher, judge and students of `settings` in `folder`.

    Raises SettingsError where the font or the encoder is missing, or the folder is of other settings.
    """

    def __init__(self, folder: Path, settings: EmojiSettings):
        self.folder, self.settings = folder, settings
        self.font, self.encoder = require()
        self._hold_settings()
        self.compositions = all_compositions(settings.objects)
        self.captions = [one.caption for one in self.compositions]
        self.row = {one: number for number, one in enumerate(self.compositions)}

    def _hold_settings(self) -> None:
        place, content = self.folder / "settings.json", {"settings": self.settings.model_dump(mode="json")}
        try:
            found = read_checked(place, FORMAT)
        except FileNotFoundError:
            write_checked(place, FORMAT, content)
            return
        if found["settings"] != content["settings"]:
            raise SettingsError(f"{self.folder}: was made with other settings", hint="give another folder with --work")

    def cost(self, part: str) -> float | None:
        """Seconds of a processor that making a part took, over all its starts; None before it is there."""
        place = self.folder / "costs" / f"{part}.json"
        return float(read_checked(place, FORMAT)["processor_seconds"]) if place.exists() else None

    def _made(self, part: str, make: Callable[[], None]) -> None:
        """Calls `make` unless the part is there, and adds what it cost."""
        place = self.folder / "costs" / f"{part}.json"
        before = read_checked(place, FORMAT) if place.exists() else {"done": False, "processor_seconds": 0.0}
        if before["done"]:
            return
        print(f"{part}: begins", file=sys.stderr, flush=True)
        begun, done = time.process_time(), False
        try:
            with torch.enable_grad():  # whoever asks for a part may only be looking
                make()
            done = True
        finally:
            spent = before["processor_seconds"] + time.process_time() - begun
            write_checked(place, FORMAT, {"done": done, "processor_seconds": round(spent, 1)})
        print(f"{part}: done, {spent:.0f} s of a processor", file=sys.stderr, flush=True)

    # --- the parts ---------------------------------------------------------------------------------------------------

    @cached_property
    def autoencoder(self) -> diffusers.AutoencoderKL:
        """Trained, with the latents of the data beside it."""

        def make() -> None:
            images = self._pictures()
            network = train_autoencoder(self.settings.autoencoder, images, self.folder / "autoencoder-checkpoints",
                                        _told("autoencoder"))  # fmt: skip
            network.save_pretrained(self.folder / "autoencoder", safe_serialization=True)
            with replacing(self.folder / "latents.safetensors") as temporary:
                save_file({"latents": encode(network, images)}, temporary)

        self._made("autoencoder", make)
        return diffusers.AutoencoderKL.from_pretrained(self.folder / "autoencoder", local_files_only=True).eval()

    @cached_property
    def data(self) -> tuple[Tensor, Tensor]:
        """Scaled latents (N, C, H, W) of the pictures and the rows (N,) of their captions."""
        _ = self.autoencoder
        rows = torch.tensor([self.row[one] for one in self._chosen()])
        return load_file(self.folder / "latents.safetensors")["latents"], rows

    @cached_property
    def pipeline(self) -> Path:
        """A pipeline whose UNet has random weights, which the teacher stage can train (examples/emoji.yaml)."""
        place = self.folder / "pipeline"

        def make() -> None:
            shutil.rmtree(place, ignore_errors=True)
            new_pipeline(self.settings.teacher, self.autoencoder, self.encoder, SIZE).save_pretrained(place)

        _ = self.autoencoder
        self._made("pipeline", make)
        return place

    @cached_property
    def teacher(self) -> Denoiser:
        """Trained; its condition k is caption k."""
        _ = self.pipeline

        def make() -> None:
            place = self.folder / "teacher"
            if not (self.folder / "teacher-checkpoints").exists():
                shutil.rmtree(place, ignore_errors=True)
                shutil.copytree(self.pipeline, place)
            train_teacher(self.settings.teacher, place, *self.data, self.captions,
                          checkpoints=self.folder / "teacher-checkpoints", on_progress=_told("teacher"))  # fmt: skip

        self._made("teacher", make)
        return teacher_of(self.folder / "teacher", self.captions)

    @cached_property
    def judge(self) -> Classifier:
        """The classifier of the objects."""
        own = self.settings

        def make() -> None:
            fitted = fit_judge(self.font, objects=own.objects, count=own.judge_pictures, steps=own.judge_steps,
                               seed=own.seed)  # fmt: skip
            (self.folder / "judge").mkdir(exist_ok=True)
            save_features(fitted, self.folder / "judge")

        self._made("judge", make)
        return load_features(self.folder / "judge")

    def student(self, recipe: str) -> Student:
        """The student by a recipe in four steps."""
        own = self.settings
        found: list[Student] = []

        def run() -> None:
            overrides = Overrides(steps=STUDENT_STEPS, batch=own.student_batch)
            found.append(distill(
                load_recipe(recipe).override(overrides), self.teacher, data=self.data, images=own.student_images,
                seed=own.seed, workdir=self.folder / "students" / recipe, device="cpu", progress=True,
            ))  # fmt: skip

        _ = self.teacher, self.data  # what they cost is theirs
        self._made(f"student-{recipe}", run)
        if not found:
            run()  # reads its last checkpoint
        return found[0].eval()

    def _chosen(self) -> list[Composition]:
        allowed = [one for one in self.compositions if not one.held_out]
        return spread(allowed, self.settings.pictures, self.settings.seed, "emoji-train")

    def _pictures(self) -> Tensor:
        """The teacher's data, as `make_data` writes them."""
        return as_tensor(draw_all(self.font, self._chosen(), self.settings.seed, "emoji-train-variation"))


def _told(part: str) -> Callable[[int, int, dict[str, float]], None]:
    def tell(done: int, total: int, figures: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items() if name.count("/") <= 1)
        print(f"{part}: {done:,} of {total:,}  {shown}", file=sys.stderr, flush=True)

    return tell
