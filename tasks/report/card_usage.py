"""The section of the model card that shows how the student is asked for samples, by what its pipeline's call takes."""

from __future__ import annotations

from dataclasses import dataclass, field

from fewstep.families.image_arguments import MASK
from fewstep.teachers.inspection import TeacherInfo

_ATTRIBUTE = {"images": "images", "videos": "frames", "sound": "audios"}
"""Of what diffusers' pipelines return, by medium."""
_SHOWN = 4
"""Samples that are asked for where a row needs no words; of as many classes, where there are so many."""


@dataclass(frozen=True)
class _Call:
    """How samples are asked for.

    Attributes:
        words: of the pipeline's call. columns: of MLflow's request, as Python. options: of `fewstep sample`. images:
            names of image arguments, each read from a file of its name, and the lines that do so.
    """

    words: str
    columns: str
    options: str = ""
    images: dict[str, str] = field(default_factory=dict)


def usage(name: str, info: TeacherInfo, medium: str) -> str:
    """The section's text for the registered model `name`, whose samples are `medium`."""
    call = _call_of(info)
    imported = "from PIL import Image\n" if call.images else ""
    opened = "".join(f"{line}\n" for line in call.images.values())
    return (
        f"```python\nimport mlflow, pandas\nmodel = mlflow.pyfunc.load_model(\"models:/{name}@champion\")\n"
        f"samples = model.predict(pandas.DataFrame({{{call.columns}}}))\n```\n\n"
        f"or, with diffusers alone, from the folder `artifacts/pipeline` of that model:\n\n"
        f"```python\nfrom diffusers import DiffusionPipeline\n{imported}"
        f"pipe = DiffusionPipeline.from_pretrained(\"artifacts/pipeline\", trust_remote_code=True)\n{opened}"
        f"samples = pipe({call.words}).{_ATTRIBUTE[medium]}\n```\n\n"
        f"or in a checkout of the pipeline: `fewstep sample {name}@champion{call.options}`. Steps and guidance are the "
        f"student's own.\n"
    )  # fmt: skip


def _call_of(info: TeacherInfo) -> _Call:
    if info.textual:
        return _with_images(info)
    # a recorded pipeline has the student's steps as its default and makes one sample for each class that is given
    steps = ((info.description or {}).get("sampler") or {}).get("steps", 1)
    told = "" if info.recorded or steps == 1 else f", num_inference_steps={steps}"
    if not info.num_classes:
        return _Call(f"{_SHOWN}{told}", f'"seed": {list(range(_SHOWN))}')
    labels = list(range(min(_SHOWN, info.num_classes)))
    count = "" if info.recorded else f"{len(labels)}, "
    return _Call(f"{count}class_labels={labels}{told}", f'"class": {labels}')


def _with_images(info: TeacherInfo) -> _Call:
    """Of a pipeline of texts, and of the images that it is given beside them."""
    wanted = ((info.description or {}).get("family") or {}).get("images") or {"names": (), "size": (0, 0)}
    height, width = wanted["size"]
    lines: dict[str, str] = {}
    words, columns, options = ['prompt="a red apple"'], ['"prompt": ["a red apple"]'], ['--prompt "a red apple"']
    for name in wanted["names"]:
        mask = MASK in name
        mode = "L" if mask else "RGB"
        lines[name] = f'{name} = Image.open("{name}.png").convert("{mode}").resize(({width}, {height}))'
        words.append(f"{name}={name}")
        columns.append(f'"{name}": [open("{name}.png", "rb").read()]')
        options.append(f"{'--mask' if mask else '--image'} {name}.png")
    return _Call(", ".join(words), ", ".join(columns), f" {' '.join(options)}", lines)
