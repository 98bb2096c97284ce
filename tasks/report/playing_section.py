"""Videos and sound that play in the page: the student's and the teacher's from the same noise."""

from __future__ import annotations

import base64
from html import escape

import numpy as np

from fewstep.metrics.metric_names import counted
from fewstep.util.playable import gif, wav
from tasks.report.formatting import teachers
from tasks.report.inline_images import scale_of
from tasks.report.report_data import Material


def playing(materials: list[Material]) -> str:
    """A row for each of a few samples, a column for each model; nothing for images."""
    columns = [(_name(material, materials, "teacher"), counted(material.document.teacher.evaluations, "evaluation"),
                material, "play.teacher") for material in teachers(materials)]  # fmt: skip
    columns += [(_name(material, materials, "student"), counted(row.steps, "step"), material,
                 f"play.student-{row.steps}")
                for material in materials for row in material.document.student]  # fmt: skip
    columns = [column for column in columns if column[-1] in column[2].pictures]
    if not columns:
        return ""
    head = "".join(f'<th>{escape(title)}<span class="n">{escape(note)}</span></th>' for title, note, *_ in columns)
    first, rows = columns[0][2], []
    for place in range(min(len(material.pictures[name]) for _, _, material, name in columns)):
        cells = "".join(f"<td>{_played(material, material.pictures[name][place])}</td>"
                        for _, _, material, name in columns)  # fmt: skip
        rows.append(f"<tr><th>{escape(_asked(first, place))}</th>{cells}</tr>")
    return (f'<div class="scroll"><table class="playing"><thead><tr><th></th>{head}</tr></thead>'
            f"<tbody>{''.join(rows)}</tbody></table></div>")


def _name(material: Material, materials: list[Material], role: str) -> str:
    if len(materials) == 1:
        return role
    return material.label if role == "student" else f"{role} of {material.label}"


def _asked(material: Material, place: int) -> str:
    """What a sample was asked for."""
    asked = material.pictures.get("followed.classes")
    if asked is None:
        return f"sample {int(material.pictures['followed'][place])}"
    return material.document.prompts.get(str(asked[place]), f"class {asked[place]}")


def _played(material: Material, sample: np.ndarray) -> str:
    rate = material.document.rate
    if material.document.medium == "sound":
        return f'<audio controls preload="none" src="{_uri("audio/wav", wav(sample, rate))}"></audio>'
    height, width = sample.shape[-2:]
    scale = 2 * scale_of(max(height, width))
    return (f'<img src="{_uri("image/gif", gif(sample, rate))}" width="{scale * width}" height="{scale * height}" '
            f'alt="a video of {len(sample)} frames">')


def _uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
