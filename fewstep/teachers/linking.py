"""The parts of a pipeline folder in another one: its files under a further name, nothing copied where the file system
allows. Only what is read is taken: configurations, tokenizers, safetensors of one variant; never pickles, never code.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from fewstep.teachers.inspection import UNUSED, TeacherInfo
from fewstep.teachers.weight_files import read_json, weight_files
from fewstep.util.errors import SettingsError
from fewstep.util.files import link_or_copy, write_json
from fewstep.util.hashing import sha256_file, sha256_json

_TEXTS = frozenset({".json", ".txt", ".model", ".jinja", ".tiktoken"})
"""Endings of configurations, and of the vocabularies and templates of tokenizers."""


Link = Callable[[Path, Path], None]


def link_parts(
    info: TeacherInfo, target: Path, without: Container[str] = (), link: Link = link_or_copy
) -> dict[str, Any]:
    """Links the parts of an inspected folder into `target`, but for those named, and returns the model_index.json that
    belongs there.

    Weights of a variant get the name of plain ones, so that whoever reads the folder need not know of it. A part that
    is never read here (a safety checker) is left out where its weights are not safetensors.
    """
    index = read_json(info.folder / "model_index.json", "every saved diffusers pipeline has this file")
    index.pop("_name_or_path", None)
    for name in sorted(info.parts):
        folder = info.folder / name
        if name in UNUSED and not _is_safe(folder, info.variant):
            index[name] = [None, None]
            if name == "safety_checker":
                index["requires_safety_checker"] = False
        elif name not in without:
            for plain, path in _read_files(folder, info.variant).items():
                link(path, target / name / plain)
    return index


def _read_files(folder: Path, variant: str | None) -> dict[str, Path]:
    """What is read of a part's folder, by its name in the new one."""
    found = {
        path.name: path
        for path in sorted(folder.iterdir())
        if path.is_file() and path.suffix in _TEXTS and ".index." not in path.name
    }
    return found | (weight_files(folder, variant) if "config.json" in found else {})


def _is_safe(folder: Path, variant: str | None) -> bool:
    """Whether a part can be linked at all."""
    try:
        return bool(_read_files(folder, variant))
    except (SettingsError, FileNotFoundError):
        return False


@contextmanager
def stock_view(info: TeacherInfo) -> Iterator[Path]:
    """Yields a temporary folder of symbolic links to what is read of an inspected folder, for libraries that would
    look at the rest: plain weights whatever the variant, and the stock class in the place of the folder's own code."""

    def link(source: Path, target: Path) -> None:
        target.parent.mkdir(exist_ok=True)
        target.symlink_to(source.resolve())

    with TemporaryDirectory(prefix="fewstep-view-") as place:
        index = link_parts(info, Path(place), link=link)
        write_json(Path(place) / "model_index.json", {**index, "_class_name": info.pipeline})
        yield Path(place)


def part_digests(info: TeacherInfo, parts: Iterable[str]) -> dict[str, str]:
    """Of each of these parts of an inspected folder, SHA-256 of the names and contents of the files that are read."""
    found = {name: _read_files(info.folder / name, info.variant) for name in parts}
    return {name: sha256_json({plain: sha256_file(path) for plain, path in files.items()})
            for name, files in found.items()}  # fmt: skip
