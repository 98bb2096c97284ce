"""The arrays that the stage baselines publishes beside baselines.json, for every student to be compared with."""

from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor


@dataclass(frozen=True)
class BaselineArrays:
    """By baseline where not said otherwise.

    Attributes:
        teacher: (samples, …) as they are stored: all samples of the baseline that stands for the teacher.
        features: (samples, d) float64.
        replicates: (2, g) float64, jackknife replicates of the extrapolated Fréchet distance.
        pictures: (n, C, H, W) uint8 pictures of the samples with the indices `shown` (n,).
        trajectories: (m, S + 1, C, H, W) uint8 of the teacher: states from noise on, at unit variance, and the samples
            in which they end; with the indices `followed` (m,).
    """

    teacher: Tensor
    features: dict[str, Tensor]
    replicates: dict[str, Tensor]
    pictures: dict[str, Tensor]
    shown: Tensor
    trajectories: Tensor
    followed: Tensor

    def save(self, folder: Path) -> None:
        """Writes one file per kind into an existing folder."""
        save_file({"images": self.teacher}, folder / "teacher.safetensors")
        save_file(self.features, folder / "features.safetensors")
        save_file(self.replicates, folder / "replicates.safetensors")
        save_file({"states": self.trajectories, "indices": self.followed}, folder / "trajectories.safetensors")
        save_file({**self.pictures, "indices": self.shown}, folder / "pictures.safetensors")

    @classmethod
    def load(cls, folder: Path) -> "BaselineArrays":
        """The inverse of `save`."""
        teacher, features, replicates, trajectories, pictures = (
            load_file(folder / f"{name}.safetensors")
            for name in ("teacher", "features", "replicates", "trajectories", "pictures")
        )
        shown = pictures.pop("indices")
        return cls(teacher["images"], features, replicates, pictures, shown, trajectories["states"],
                   trajectories["indices"])  # fmt: skip
