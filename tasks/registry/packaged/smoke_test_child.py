"""Run as a script: loads an exported student with torch and diffusers only and draws from it by class.

Prints {"problems": [...]} as JSON. This project and its orchestration cannot be imported here, also not by the
pipeline.py in the folder.
"""

import inspect
import json
import sys
from pathlib import Path

ABSENT = ("fewstep", "tasks", "flows", "infra", "prefect", "dvc", "mlflow")
IMAGES = 2  # of each class
MOST = 64  # classes that are tried
SAME = 1e-4  # images that differ by less than this everywhere are the same


class Without:
    """The import finder `finder` without the packages in ABSENT."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


PROMPTS = ("a red apple", "two blue cars on a road")


def pictures(images, count):
    """Noise of the right size for a pipeline that is given images, by argument; nothing for another."""
    import numpy as np
    from PIL import Image

    if images is None:
        return {}
    noise = np.random.default_rng(0).integers(0, 256, (*images["size"], 3), dtype=np.uint8)
    mask = np.full(images["size"], 255, dtype=np.uint8)
    found = {name: Image.fromarray(mask if "mask" in name else noise) for name in images["names"]}
    return {name: [image] * count if images["listed"] else image for name, image in found.items()}


def draw(pipeline, asked, seeds, steps, images=None):
    """(n, …) samples of these classes or prompts (None for a model without), one generator per sample; of prompts with
    nothing else said, as their users sample."""
    import torch  # loads torch

    given = {"batch_size": len(seeds), "num_inference_steps": steps, "output_type": "np",
             "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}  # fmt: skip
    if asked is not None and isinstance(asked[0], str):
        given |= {"prompt": asked, **pictures(images, len(asked))}
        del given["num_inference_steps"]
    elif asked is not None:
        given["class_labels"] = torch.tensor(asked)
    taken = inspect.signature(type(pipeline).__call__).parameters
    with torch.no_grad():
        return pipeline(**{name: value for name, value in given.items() if name in taken}, return_dict=False)[0]


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
    texts = bool((description.get("family") or {"fields": {}})["fields"])
    seen = (description.get("family") or {}).get("images")
    known = PROMPTS if texts else range(min(count, MOST))
    classes = [one for one in known for _ in range(IMAGES)] or None
    count = len(known)
    seeds = list(range(IMAGES)) * max(1, count)
    images = np.asarray(draw(pipeline, classes, seeds, steps, seen))
    if not np.isfinite(images).all():
        return ["its samples are NaN or infinite"]
    problems = []
    if np.abs(images - np.asarray(draw(pipeline, classes, seeds, steps, seen))).max() > SAME:
        problems.append("it draws other images from the same noise when asked again")
    if np.abs(images[0] - images[1]).max() < SAME:
        problems.append("it draws the same image from different noise")
    if count > 1:
        groups = images.reshape(count, -1)
        alike = [(i, j) for i in range(count) for j in range(i) if np.abs(groups[i] - groups[j]).max() < SAME]
        if alike:
            first, second = alike[0][::-1]
            problems.append(f"the {'prompt' if texts else 'class'} makes no difference: it draws the same for "
                            f"{'prompts' if texts else 'classes'} {known[first]} and {known[second]}")  # fmt: skip
    return problems


if __name__ == "__main__":
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    print(json.dumps({"problems": examine(Path(sys.argv[1]))}))
