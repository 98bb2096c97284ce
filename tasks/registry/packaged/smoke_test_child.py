"""Run as a script: loads an exported student with torch and diffusers only and draws from it by class.

Prints {"problems": [...]} as JSON. This project and its orchestration cannot be imported here, also not by the
pipeline.py in the folder.
"""

import json
import sys
from pathlib import Path

ABSENT = ("fewstep", "tasks", "flows", "infra", "prefect", "dvc", "mlflow")
IMAGES = 2  # of each class
SAME = 1e-4  # images that differ by less than this everywhere are the same


class Without:
    """The import finder `finder` without the packages in ABSENT."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def draw(pipeline, classes, seeds, steps):
    """(n, height, width, channels) images of these classes (None for a model without), one generator per image."""
    import torch  # loads torch

    labels = None if classes is None else torch.tensor(classes)
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    with torch.no_grad():
        return pipeline(batch_size=len(seeds), class_labels=labels, num_inference_steps=steps, generator=generators,
                        output_type="np").images  # fmt: skip


def examine(folder):
    """Problems of the images, a line each."""
    import diffusers  # loads diffusers
    import numpy as np

    diffusers.utils.logging.disable_progress_bar()
    description = json.loads((folder / "fewstep.json").read_text())
    count, steps = description["num_classes"], description["sampler"]["steps"]
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        folder, local_files_only=True, use_safetensors=True, trust_remote_code=(folder / "pipeline.py").is_file()
    )
    pipeline.set_progress_bar_config(disable=True)
    classes = [label for label in range(count) for _ in range(IMAGES)] if count else None
    seeds = list(range(IMAGES)) * max(1, count)
    images = np.asarray(draw(pipeline, classes, seeds, steps))
    if not np.isfinite(images).all():
        return ["its samples are NaN or infinite"]
    problems = []
    if np.abs(images - np.asarray(draw(pipeline, classes, seeds, steps))).max() > SAME:
        problems.append("it draws other images from the same noise when asked again")
    if np.abs(images[0] - images[1]).max() < SAME:
        problems.append("it draws the same image from different noise")
    if count > 1:
        groups = images.reshape(count, -1)
        alike = [(i, j) for i in range(count) for j in range(i) if np.abs(groups[i] - groups[j]).max() < SAME]
        if alike:
            first, second = alike[0][::-1]
            problems.append(f"the class makes no difference: it draws the same for classes {first} and {second}")
    return problems


if __name__ == "__main__":
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    print(json.dumps({"problems": examine(Path(sys.argv[1]))}))
