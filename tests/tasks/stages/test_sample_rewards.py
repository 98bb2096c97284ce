"""The distill stage gives a reward of one's own what a teacher's latents are decoded to."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.tasks.stages.test_media_evaluation import STAGES, made

SEEN: list[tuple[int, ...]] = []
RECIPE = f"""
summary: images that are red
status: own
student: {{steps: 1, init: teacher}}
training: {{batch: 4}}
rounds:
  - terms:
      - {{term: reward, reward: {{kind: python, function: "{__name__}:redness"}}}}
"""


def redness(x: torch.Tensor, _condition: torch.Tensor | None) -> torch.Tensor:
    SEEN.append(tuple(x.shape[1:]))
    return (x[:, 0] - x[:, 1:].mean(1)).flatten(1).mean(1)


def test_a_reward_of_ones_own_sees_images(tmp_path: Path):
    world = made(tmp_path, "sd", STAGES[:3])
    (tmp_path / "red.yaml").write_text(RECIPE)
    world.settings = world.settings.model_copy(
        update={"distill": world.settings.distill.model_copy(update={"recipe": str(tmp_path / "red.yaml")})})
    world.run("trajectories")
    summary = world.run("distill")
    assert summary["recipe"] == "red" and set(SEEN) == {(3, 32, 32)}
    assert json.loads((world.folder("distill") / "fewstep.json").read_bytes())["family"]
