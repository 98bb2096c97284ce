"""The pictures of the model card: samples of student and teacher from the same noise, as files beside it."""

from __future__ import annotations

from fewstep.metrics.metric_names import counted
from tasks.report.inline_images import picture, png
from tasks.report.report_data import Material
from tasks.report.sample_section import grid_rows

FILES = ("student.png", "teacher.png")


def pictures_of(material: Material) -> dict[str, tuple[str, bytes]]:
    """What each shows, and its bytes, by name of the file; those alone whose samples the evaluation kept."""
    first, teacher = material.document.first, material.document.teacher
    grids = {
        FILES[0]: (f"grid.student-{first.steps}", f"The student, {counted(first.steps, 'step')}"),
        FILES[1]: ("grid.teacher", "The teacher from the same noise, "
                                   f"{counted(teacher.evaluations, 'network evaluation')}"),
    }
    return {file: (told, png(picture(grid_rows(material, name)))) for file, (name, told) in grids.items()
            if name in material.pictures}  # fmt: skip
