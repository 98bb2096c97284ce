"""In which form a student leaves: as settings, and what each form asks of the student. Torch-free."""

from __future__ import annotations

from typing import Literal

from fewstep.students.student_settings import StudentSettings
from fewstep.util.errors import SettingsError

Form = Literal["pipeline", "lora", "network"]
"""`pipeline`: the teacher's pipeline with the student's denoiser. `lora`: with the teacher's, the adapters beside it.
`network`: the denoiser alone, with the digests of the parts that it goes with."""


def require_form(form: Form, student: StudentSettings) -> None:
    """Raises SettingsError where a student of these settings cannot leave in this form."""
    if form != "lora":
        return
    hint = "set distill.export: pipeline, in which adapters are merged and further inputs folded"
    if student.lora is None:
        raise SettingsError("export 'lora' needs adapters, and this recipe trains none", hint="set student.lora, or "
                            "distill.export: pipeline")  # fmt: skip
    further = {"second_time": student.second_time, "guidance_input": student.guidance_input is not None,
               "negative_time": student.negative_time}  # fmt: skip
    if found := [name for name, there in further.items() if there]:
        raise SettingsError(
            f"export 'lora' cannot hold {', '.join(found)}: it folds into a bias, which no low-rank matrix holds",
            hint=hint,
        )
    changed = {"init: random": student.init == "random", "size": student.size is not None,
               "guide": student.guide is not None}  # fmt: skip
    if found := [name for name, there in changed.items() if there]:
        raise SettingsError(
            f"export 'lora' goes with the teacher's own weights, which {', '.join(found)} replaces", hint=hint
        )
