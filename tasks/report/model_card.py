"""The model card: what a student is, how to sample it, what it came from and what it reaches, as README.md in the form
that model hubs read (Markdown below a YAML head). No torch here.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fewstep.metrics.metric_names import counted
from fewstep.teachers.inspection import TeacherInfo, inspect_teacher
from fewstep.util.errors import SettingsError
from fewstep.util.plain_data import from_yaml, to_yaml
from tasks.report import results_table
from tasks.report.card_pictures import pictures_of
from tasks.report.card_usage import usage
from tasks.report.report_data import Material

CARD = "README.md"
_LICENCE = ("license", "license_name", "license_link")
_HEAD = "---\n"
_MOST = 4_900
_PICTURES = "Pictures"


def model_card(material: Material, student: Path, given: Path | None) -> str:
    """The card of the student in a folder; `given`: that of a given teacher, whose own card tells its licence.

    It holds no date, path or host, so that the same student has the same card.
    """
    info, licence = inspect_teacher(student), licence_of(given)
    recipe = _recipe(material)
    head = {"library_name": "diffusers", "pipeline_tag": _task(material, info), **licence,
            "tags": ["fewstep", "distillation", recipe.get("name", "student")]}
    parts = [
        f"{_HEAD}{to_yaml(head)}{_HEAD}",
        f"# fewstep-{material.label}\n",
        _what(material, info, recipe),
        f"## Sample\n\n{usage(f'fewstep-{material.label}', info, material.document.medium)}",
        f"## Figures\n\n{results_table.markdown(material.result)}",
        *([f"## {_PICTURES}\n\n{_shown(material)}"] if pictures_of(material) else []),
        f"## Where it comes from\n\n{_origin(material)}",
        f"## Licence\n\n{_terms(licence, given)}",
    ]
    return "\n".join(parts)


def in_registry(card: str) -> str:
    """As many sections of the card as MLflow keeps in a description (5,000 characters), without the YAML head."""
    kept, *sections = card.split(_HEAD, 2)[2].lstrip().split("\n## ")
    for section in sections:
        if section.startswith(_PICTURES):   # files beside the card
            continue
        if len(kept) + len(section) > _MOST:
            return f"{kept}\n…\n\nMore in the model's own {CARD}.\n"
        kept += f"\n## {section}"
    return kept


def licence_of(folder: Path | None) -> dict[str, str]:
    """The fields of a licence in the head of the folder's own card; empty where it tells none."""
    path = None if folder is None else folder / CARD
    if path is None or not path.is_file():
        return {}
    try:
        text = path.read_text(encoding="utf-8")
        head = from_yaml(text.split(_HEAD, 2)[1]) if text.startswith(_HEAD) else None
    except (OSError, ValueError, IndexError, SettingsError):
        return {}   # somebody else's file, which need not be what hubs read
    if not isinstance(head, dict):
        return {}
    return {name: head[name] for name in _LICENCE if isinstance(head.get(name), str)}


def _recipe(material: Material) -> Mapping[str, Any]:
    return material.stages["distill"].settings.get("recipe", {}) if "distill" in material.stages else {}


def _task(material: Material, info: TeacherInfo) -> str:
    """As model hubs name it."""
    if not info.textual:
        return "unconditional-image-generation"
    return {"images": "text-to-image", "videos": "text-to-video", "sound": "text-to-audio"}[material.document.medium]


def _what(material: Material, info: TeacherInfo, recipe: Mapping[str, Any]) -> str:
    steps = recipe.get("student", {}).get("steps", material.document.first.steps)
    asked = "a text" if info.textual else f"one of {info.num_classes} classes" if info.num_classes else "nothing"
    return (f"A student that samples in {counted(steps, 'step')} ({info.network}, {info.parameters:,} parameters), "
            f"asked for {asked}, distilled by the recipe `{recipe.get('name', 'unknown')}` from a teacher that takes "
            f"{counted(material.document.teacher.evaluations, 'network evaluation')}.\n")  # fmt: skip


def _shown(material: Material) -> str:
    return "".join(f"![{told}]({name})\n\n{told}\n\n" for name, (told, _) in pictures_of(material).items())


def _origin(material: Material) -> str:
    rows = [f"| {name} | `{stage.digest[:16]}` | `{stage.key[:16]}` | "
            f"{', '.join(f'{what} `{digest[:16]}`' for what, digest in stage.given.items()) or '–'} |"
            for name, stage in material.stages.items()]  # fmt: skip
    commit = material.told_commit() or "no commit is known"
    return "\n".join(["| stage | bytes | key | brought in |", "| :-- | :-- | :-- | :-- |", *rows, "",
                      f"Code: {commit}. `fewstep lineage fewstep-{material.label}` hashes every byte anew.\n"])


def _terms(licence: Mapping[str, str], given: Path | None) -> str:
    if licence:
        told = ", ".join(f"{name}: {value}" for name, value in licence.items())
        return (f"Of the teacher, by its own card: {told}. A student is derived from its teacher and from the data: "
                f"both licences bind it.\n")  # fmt: skip
    if given is not None:
        return ("The teacher's folder tells no licence: look it up, and write `license` into the head of this card "
                "before you pass the model on.\n")  # fmt: skip
    return "The teacher was trained here: the licence of its images binds it; write it into the head of this card.\n"
