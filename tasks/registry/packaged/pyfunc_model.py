"""The registered form of a student: an MLflow pyfunc over a diffusers pipeline folder.

MLflow stores this file beside the pipeline and runs it where the model is loaded (models-from-code; no pickle is read),
so it imports torch, diffusers, mlflow, numpy and pandas only. The folder's tree digest is verified before anything in
it is loaded, because MLflow does not check what it downloads.
"""

import hashlib
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
    """What is read of the folder's fewstep.json: the number of classes (0: none) and the steps it was trained for."""

    num_classes: int
    steps: int

    @classmethod
    def of(cls, folder: Path) -> "Description":
        """Raises ValueError naming the file when it is damaged."""
        path = folder / "fewstep.json"
        try:
            content = json.loads(path.read_text())
            return cls(int(content["num_classes"]), int(content["sampler"]["steps"]))
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path}: not the description of a student ({type(error).__name__}: {error})") from None


class StudentModel(mlflow.pyfunc.PythonModel):
    """Draws samples. A row asks for `n` samples (1 where the column is missing) of `class`, from `seed` upwards.

    Rows without a class cycle through all classes; rows without a seed take their position. The result is an array
    (samples, height, width, channels), float32 in [0, 1]. A sample depends on its class, its seed and the steps alone,
    up to the last bits of the arithmetic, not on the other rows.
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
        """Samples for each row of `model_input`; `params["steps"]` (0: as trained) and `params["batch"]`."""
        params = params or {}
        steps, batch = int(params.get("steps") or self.description.steps), int(params.get("batch") or 256)
        classes, seeds = self._requests(model_input)
        parts = [self._draw(classes[i : i + batch], seeds[i : i + batch], steps) for i in range(0, len(seeds), batch)]
        return np.concatenate(parts).astype(np.float32)

    def _requests(self, table: pd.DataFrame) -> tuple[list[int], list[int]]:
        """Class and seed of every sample. Raises ValueError for an unknown column or a value out of range."""
        unknown = [str(name) for name in table.columns if name not in COLUMNS]
        if unknown:
            raise ValueError(f"unknown column {unknown[0]!r}: the columns are class, seed and n")
        count = max(1, self.description.num_classes)
        classes, seeds = [], []
        for row in table.to_dict("records"):
            repeats = int(row["n"]) if _given(row, "n") else 1
            if repeats < 1:
                raise ValueError(f"n is {repeats}; it must be at least 1")
            for repeat in range(repeats):
                seed = int(row["seed"]) + repeat if _given(row, "seed") else len(seeds)
                label = int(row["class"]) if _given(row, "class") else len(classes) % count
                if not 0 <= label < count or seed < 0:
                    raise ValueError(f"class {label} with seed {seed}: classes are 0 to {count - 1}, seeds ≥ 0")
                classes.append(label)
                seeds.append(seed)
        if not seeds:
            raise ValueError("no rows: give at least one row with class, seed or n")
        return classes, seeds

    def _draw(self, classes: list[int], seeds: list[int], steps: int) -> np.ndarray:
        import torch  # loads torch

        # a generator per sample, so that a sample depends on its seed alone (diffusers' `latents` are for RGB only)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        labels = torch.tensor(classes, device=self.pipeline.device) if self.description.num_classes else None
        with torch.no_grad():
            result = self.pipeline(batch_size=len(seeds), class_labels=labels, num_inference_steps=steps,
                                   generator=generators, output_type="np")  # fmt: skip
        return np.asarray(result.images)


def _given(row: dict, name: str) -> bool:
    return name in row and not pd.isna(row[name])


def signature() -> ModelSignature:
    """The model's signature: optional integer columns in, an array of images out, steps and batch as parameters."""
    inputs = Schema([ColSpec(DataType.long, name, required=False) for name in COLUMNS])
    outputs = Schema([TensorSpec(np.dtype(np.float32), (-1, -1, -1, -1))])
    params = ParamSchema([ParamSpec("steps", DataType.long, 0), ParamSpec("batch", DataType.long, 256)])
    return ModelSignature(inputs=inputs, outputs=outputs, params=params)


def package(pipeline: Path, weights: str, target: Path, *, run_id: str, model_id: str) -> None:
    """Writes the MLflow model over the folder `pipeline`, whose tree digest is `weights`, to the new folder `target`.

    The folder must be named `pipeline`. Requirements are the versions in use, so nothing has to be guessed.
    """
    names = ("torch", "diffusers", "safetensors", "mlflow", "numpy", "pandas")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow asks for an input example; the signature is explicit
        mlflow.pyfunc.save_model(
            path=str(target), python_model=str(Path(__file__).resolve()), artifacts={"pipeline": str(pipeline)},
            model_config={"weights": weights}, signature=signature(),
            mlflow_model=Model(run_id=run_id, model_id=model_id),
            pip_requirements=[f"{name}=={version(name).split('+')[0]}" for name in names],
        )  # fmt: skip


mlflow.models.set_model(StudentModel())
