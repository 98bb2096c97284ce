"""How large the example is: what `make emoji` runs on two idle cores, and a trial of it."""

from __future__ import annotations

from examples.emoji.autoencoder import AutoencoderSettings
from examples.emoji.compositions import OBJECTS
from examples.emoji.teacher import TeacherSettings
from fewstep.util.config import Strict

STUDENTS = ("lcm", "dmd2-multistep", "lcm-lora")
"""Recipes that are distilled, each in four steps."""
STUDENT_STEPS = 4


class EmojiSettings(Strict):
    """All settings of the example.

    objects: how many of OBJECTS. pictures: in the teacher's data. judge_pictures, judge_steps: of the judge's training.
    guidance: scale of the teacher's samples, and steps: how many it takes (each is two evaluations). student_images,
    student_batch: of each distillation. samples: that each model is measured on.
    """

    objects: int = len(OBJECTS)
    pictures: int = 16_384
    autoencoder: AutoencoderSettings = AutoencoderSettings()
    teacher: TeacherSettings = TeacherSettings()
    judge_pictures: int = 12_000
    judge_steps: int = 1_500
    guidance: float = 2.0
    steps: int = 20
    student_images: int = 32_000
    student_batch: int = 32
    samples: int = 1_000
    seed: int = 0


SIZES: dict[str, EmojiSettings] = {
    "full": EmojiSettings(objects=64),
    "trial": EmojiSettings(
        objects=16, pictures=4_096, autoencoder=AutoencoderSettings(steps=600, batch=16),
        teacher=TeacherSettings(images=24_000, ema=0.99), judge_pictures=2_400, judge_steps=200, steps=12,
        student_images=3_200, samples=240,
    ),
}  # fmt: skip
"""full: planned for 90 minutes of two idle cores, from what steps cost on a busy one. trial: 15 minutes of one.

In a run like the trial (280 s of a processor for the teacher) the colour was right in 97 % of 240 samples and the
object in 64 %, of real pictures that the autoencoder had coded in 95 %; LCM in four steps, after 100 steps of training:
99 % and 61 %. Colours come first and objects take the time: a full run has so many that each is seen 3,500 times.
"""
