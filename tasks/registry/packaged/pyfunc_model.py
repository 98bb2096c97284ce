"""The registered form of a student: an MLflow pyfunc over a diffusers pipeline folder.

MLflow stores this file beside the pipeline and runs it where the model is loaded (models-from-code; no pickle is read),
so it imports torch, diffusers, mlflow, numpy and pandas only. The folder's tree digest is verified before anything in
it is loaded, because MLflow does not check what it downloads.
"""

import hashlib
import inspect
import io
import json
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np
import pandas as pd
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema, TensorSpec

COLUMNS = ("class", "seed", "n")
PROMPT_COLUMNS = ("prompt", "negative", "seed", "n")
"""Of a student that is conditional on texts."""


def tree_digest(folder: Path) -> str:
    """SHA-256 over the sorted (path, bytes, SHA-256) of all files in `folder` (tasks.engine.manifest.tree_digest)."""
    entries = []
    for path in sorted(folder.rglob("*")):
        if path.is_symlink():
            raise ValueError(f"{path} is a link; a registered model has none")
        if path.is_file():
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            entries.append([path.relative_to(folder).as_posix(), path.stat().st_size, digest])
    entries.sort()
    return hashlib.sha256(json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


class Description(NamedTuple):
    """What is read of the folder's fewstep.json: the number of classes (0: none), the steps it was trained for,
    whether it is conditional on texts, the names of images that it is given too and their size (height, width) at each
    size of samples, and the sizes (height, width) of its samples where it makes several, the usual one first."""

    num_classes: int
    steps: int
    texts: bool = False
    images: tuple[str, ...] = ()
    shown: tuple[tuple[int, int], ...] = ()
    listed: bool = True
    sizes: tuple[tuple[int, int], ...] = ()

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of a request."""
        return (*PROMPT_COLUMNS, *self.images) if self.texts else COLUMNS

    @classmethod
    def of(cls, folder: Path) -> "Description":
        """Raises ValueError naming the file when it is damaged."""
        path = folder / "fewstep.json"
        try:
            content = json.loads(path.read_text())
            family = content.get("family") or {"fields": {}}
            images = family.get("images") or {"names": (), "size": (0, 0), "listed": True}
            further, sizes = family.get("sizes", ()), ()
            if further:
                own = family.get("own_pixels") or (family["arguments"]["height"], family["arguments"]["width"])
                sizes = (tuple(own), *(tuple(size["pixels"]) for size in further))
            shown = (tuple(images["size"]), *(tuple(size["image"]) for size in further if "image" in size))
            return cls(int(content["num_classes"]), int(content["sampler"]["steps"]), bool(family["fields"]),
                       tuple(images["names"]), shown, images["listed"], sizes)  # fmt: skip
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the description of a student ({type(error).__name__}: {error})") from None


class StudentModel(mlflow.pyfunc.PythonModel):
    """Draws samples. A row asks for `n` samples (1 where the column is missing) of `class`, or of `prompt` and away
    from `negative`, from `seed` upwards; for a student that is given images, they are columns too, as the bytes of
    image files, by the pipeline's names (`image`, `mask_image`).

    Rows without a class cycle through all classes; rows without a seed take their position. The result is an array
    (samples, height, width, channels) of images, with frames before the height of videos, float32 in [0, 1]; sound is
    (samples, channels, length) in [-1, 1]. A sample depends on its class or prompt, its seed and the steps alone, up to
    the last bits of the arithmetic, not on the other rows.
    """

    def load_context(self, context: mlflow.pyfunc.PythonModelContext) -> None:
        import diffusers  # loads diffusers
        import torch

        diffusers.utils.logging.disable_progress_bar()
        folder, expected = Path(context.artifacts["pipeline"]), context.model_config["weights"]
        present = tree_digest(folder)
        if present != expected:
            raise ValueError(f"{folder} differs from what was registered: tree digest {present}, expected {expected}")
        self.description = Description.of(folder)
        # a pipeline.py is covered by the digest just verified
        self.pipeline = diffusers.DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, use_safetensors=True, trust_remote_code=(folder / "pipeline.py").is_file()
        )
        self.pipeline.set_progress_bar_config(disable=True)
        self.pipeline.to("cuda" if torch.cuda.is_available() else "cpu")

    def predict(self, context: mlflow.pyfunc.PythonModelContext, model_input: pd.DataFrame,
                params: dict[str, Any] | None = None) -> np.ndarray:  # fmt: skip
        """Samples for each row of `model_input`; `params["steps"]` (0: as trained), `params["batch"]`, and of a model
        of several sizes `params["size"]`, WIDTHxHEIGHT (empty: the usual one)."""
        params = params or {}
        self._number = self._known_size(str(params.get("size") or ""))
        steps, batch = int(params.get("steps") or self.description.steps), int(params.get("batch") or 256)
        asked, seeds = self._requests(model_input)
        parts = [self._draw(asked[i : i + batch], seeds[i : i + batch], steps) for i in range(0, len(seeds), batch)]
        return np.concatenate(parts).astype(np.float32)

    def _known_size(self, size: str) -> int:
        """Number of the size WIDTHxHEIGHT; empty: of the usual one. Raises ValueError for an unknown size."""
        known = [f"{width}x{height}" for height, width in self.description.sizes]
        if size and size not in known:
            raise ValueError(f"size {size}: the sizes are {', '.join(known) or 'one alone'}")
        return known.index(size) if size else 0

    def _requests(self, table: pd.DataFrame) -> tuple[list[int] | list[tuple[Any, ...]], list[int]]:
        """Class, or prompt, negative prompt and images, and seed of every sample.

        Raises ValueError for an unknown column, a missing prompt or a value out of range.
        """
        columns = self.description.columns
        unknown = [str(name) for name in table.columns if name not in columns]
        if unknown:
            raise ValueError(f"unknown column {unknown[0]!r}: the columns are {', '.join(columns)}")
        count = max(1, self.description.num_classes)
        asked, seeds = [], []
        for row in table.to_dict("records"):
            repeats = int(row["n"]) if _given(row, "n") else 1
            if repeats < 1:
                raise ValueError(f"n is {repeats}; it must be at least 1")
            for repeat in range(repeats):
                seed = int(row["seed"]) + repeat if _given(row, "seed") else len(seeds)
                if seed < 0:
                    raise ValueError(f"seed {seed}: seeds are 0 or more")
                asked.append(self._condition(row, len(asked) % count, count))
                seeds.append(seed)
        if not seeds:
            raise ValueError(f"no rows: give at least one row with {', '.join(columns)}")
        return asked, seeds

    def _condition(self, row: dict, turn: int, count: int) -> int | tuple[Any, ...]:
        """What a row asks for: its class, or `turn`; or its prompt, negative prompt and images."""
        if self.description.texts:
            if not _given(row, "prompt"):
                raise ValueError("a row without prompt: this model is conditional on texts")
            texts = (str(row["prompt"]), str(row["negative"]) if _given(row, "negative") else "")
            return (*texts, *(self._image(row, name) for name in self.description.images))
        label = int(row["class"]) if _given(row, "class") else turn
        if not 0 <= label < count:
            raise ValueError(f"class {label}: classes are 0 to {count - 1}")
        return label

    def _image(self, row: dict, name: str) -> Any:
        from PIL import Image, ImageOps

        if not _given(row, name):
            raise ValueError(f"a row without {name}: this model is given images beside a text")
        image = ImageOps.exif_transpose(Image.open(io.BytesIO(row[name])))
        return ImageOps.fit(image.convert("L" if "mask" in name else "RGB"),
                            self.description.shown[self._number][::-1], Image.Resampling.LANCZOS)  # fmt: skip

    def _draw(self, asked: list, seeds: list[int], steps: int) -> np.ndarray:
        if self.description.images and not self.description.listed and len(asked) > 1:  # one image for all of a call
            return np.concatenate([self._draw([one], [seed], steps) for one, seed in zip(asked, seeds, strict=True)])
        import torch  # loads torch

        # a generator per sample, so that a sample depends on its seed alone (diffusers' `latents` are for RGB only)
        given = {"batch_size": len(seeds), "num_inference_steps": steps, "output_type": "np",
                 "generator": [torch.Generator().manual_seed(seed) for seed in seeds]}  # fmt: skip
        if self.description.sizes:
            given |= dict(zip(("height", "width"), self.description.sizes[self._number], strict=True))
        if self.description.texts:
            prompts, negatives, *images = zip(*asked, strict=True)
            given |= {name: list(some) if self.description.listed else some[0]
                      for name, some in zip(self.description.images, images, strict=True)}  # fmt: skip
            given |= {"prompt": list(prompts)} | ({"negative_prompt": list(negatives)} if any(negatives) else {})
            if steps == self.description.steps:
                del given["num_inference_steps"]  # the pipeline's own
        elif self.description.num_classes:
            given["class_labels"] = torch.tensor(asked, device=self.pipeline.device)
        taken = inspect.signature(type(self.pipeline).__call__).parameters
        with torch.no_grad():
            drawn = self.pipeline(**{name: value for name, value in given.items() if name in taken}, return_dict=False)
        samples = np.asarray(drawn[0])
        return samples[:, None] if samples.ndim == 2 else samples  # some pipelines leave a sound's only channel out


def _given(row: dict, name: str) -> bool:
    return name in row and not pd.isna(row[name])


def signature(description: Description) -> ModelSignature:
    """The model's signature: optional columns in (a prompt is asked for), an array out, steps and batch as
    parameters."""
    kinds = {"prompt": DataType.string, "negative": DataType.string}
    kinds |= dict.fromkeys(description.images, DataType.binary)
    inputs = Schema([ColSpec(kinds.get(name, DataType.long), name, required=name in ("prompt", *description.images))
                     for name in description.columns])  # fmt: skip
    images = Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1, -1))])
    outputs = None if description.texts else images  # texts may ask for videos and sound
    size = [ParamSpec("size", DataType.string, "")] if description.sizes else []
    params = ParamSchema([ParamSpec("steps", DataType.long, 0), ParamSpec("batch", DataType.long, 256), *size])
    return ModelSignature(inputs=inputs, outputs=outputs, params=params)


def package(pipeline: Path, weights: str, target: Path, *, run_id: str, model_id: str) -> None:
    """Writes the MLflow model over the folder `pipeline`, whose tree digest is `weights`, to the new folder `target`.

    The folder must be named `pipeline`. Requirements are the versions in use, so nothing has to be guessed.
    """
    names = ("torch", "diffusers", "transformers", "safetensors", "mlflow", "numpy", "pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow asks for an input example; the signature is explicit
        mlflow.pyfunc.save_model(
            path=str(target), python_model=str(Path(__file__).resolve()), artifacts={"pipeline": str(pipeline)},
            model_config={"weights": weights}, signature=signature(Description.of(pipeline)),
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in names],
        )  # fmt: skip


mlflow.models.set_model(StudentModel())
