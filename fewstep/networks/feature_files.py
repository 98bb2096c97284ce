"""The networks in whose features samples are judged, as files."""

import json
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from fewstep.networks.feature_classifier import Classifier, PrincipalComponents
from fewstep.networks.text_tower import TextTower
from fewstep.util.errors import DataDiffers, SettingsError

Features = Classifier | PrincipalComponents | TextTower
_KINDS = {"classifier": Classifier, "pca": PrincipalComponents, "text": TextTower}


def save_features(model: Features, folder: Path) -> None:
    """Writes features.safetensors and features.json (kind and architecture) into an existing folder."""
    if isinstance(model, Classifier):
        described = {"kind": "classifier", "num_classes": model.num_classes, "width": model.width}
    elif isinstance(model, TextTower):
        described = {"kind": "text", "joint": model.joint, "text_dimensions": model.text_dimensions,
                     "width": model.width}  # fmt: skip
    else:
        described = {"kind": "pca"}
    described |= {"features": len(model.components), "shape": list(model.shape)}
    save_file(model.state_dict(), folder / "features.safetensors")
    (folder / "features.json").write_text(json.dumps(described, indent=2, sort_keys=True) + "\n")


def load_features(folder: Path) -> Features:
    """Reads what `save_features` wrote, ready for inference.

    Raises:
        SettingsError: the files are missing.
        DataDiffers: they are damaged or do not fit each other.
    """
    description, weights = Path(folder) / "features.json", Path(folder) / "features.safetensors"
    if not (description.is_file() and weights.is_file()):
        raise SettingsError(f"{folder}: no features here (features.json and features.safetensors are needed)")
    try:
        described = json.loads(description.read_text())
        model = _KINDS[described.pop("kind")](**described)
        model.load_state_dict(load_file(weights))
    except (ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise DataDiffers(f"{weights}: the weights do not fit {description.name}: {reason}") from error
    return model.eval().requires_grad_(False)
