"""How a run goes, whatever it trains: its length, seed, device and checkpoints."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

CHECKPOINT_SHARE = 0.02
"""Of a training's time that it may wait for checkpoints: those of a large network come more seldom."""


@dataclass(frozen=True)
class RunOptions:
    """Options of a run (`Distillation`) or of one round (`RoundTrainer`).

    Attributes:
        images: training samples, over all turns; for a run over all rounds.
        seed: of everything random.
        folder: where checkpoints, and for a run the rounds' pairs, stand; None: a round keeps no checkpoints. Several
            processes share it; the first writes.
        device: where to train.
        keep_checkpoints: whether a run keeps checkpoints beside its pairs.
        gradient_checkpointing: whether networks compute the activations of their blocks anew in the backward pass. It
            saves memory and changes no bit, but where an objective differentiates forwards (there: rounding).
        averages_apart: whether the student's average, and what else of it a round keeps, lies on the CPU and comes to
            the device where it is used. It changes no bit.
        shards: whether several processes that train together hold rows of every network each
            (fewstep.networks.sharded); sums then come in another order than in one process.
        reshard: whether a checkpoint under way of another number of such processes is gone on from, in other bits.
        checkpoint_seconds, checkpoint_images: a checkpoint is due after this long, or longer where the training waited
            for the last one for more than `CHECKPOINT_SHARE` of it; or after this many images where they are given.
        made_ahead: whether a step's random numbers and samples are made in a thread while the device does the one
            before, which changes no bit; None: where the device is not the CPU.
        warn: told what the user should know, such as another fingerprint.
    """

    images: int
    seed: int = 0
    folder: Path | None = None
    device: torch.device | str = "cpu"
    keep_checkpoints: bool = True
    gradient_checkpointing: bool = False
    averages_apart: bool = False
    shards: bool = False
    reshard: bool = False
    checkpoint_seconds: float = 20.0
    checkpoint_images: int | None = None
    made_ahead: bool | None = None
    warn: Callable[[str], None] = warnings.warn

    def checkpoint_due(self, seconds: float, images: int, cost: float, busy: bool = False) -> bool:
        """Whether a checkpoint is due so long, or so many images, after the last one.

        cost: seconds that the training waited for that one. busy: whether it is still being written, which none by time
        waits for.
        """
        if self.checkpoint_images is None:
            return not busy and seconds >= max(self.checkpoint_seconds, cost / CHECKPOINT_SHARE)
        return images >= self.checkpoint_images
