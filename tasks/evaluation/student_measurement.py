"""From the student's samples to evaluation.json."""

from collections.abc import Mapping

from fewstep.metrics.evaluator import Examination
from fewstep.metrics.metric_names import counted
from fewstep.metrics.protocol import Sampling, store
from fewstep.metrics.sample_set import Sampled
from fewstep.students.student import Student
from tasks.evaluation.baseline_arrays import BaselineArrays
from tasks.evaluation.documents import Baselines, Evaluation, StudentRow
from tasks.evaluation.solver_comparison import compare

_FEW_PROMPTS = 10     # fewer are said to be few


def measure_student(examination: Examination, student: Student, samples: Mapping[int, Sampled], baselines: Baselines,
                    arrays: BaselineArrays) -> Evaluation:  # fmt: skip
    """All figures of the student, and what they are worth beside the baselines.

    Args:
        samples: by number of steps, fewest first.
    """
    classes, protocols = examination.plan.classes, dict(baselines.protocols)
    rows, comparisons = [], {}
    for steps, sampled in samples.items():
        subject = f"student, {counted(steps, 'step')}"
        sampling = Sampling(solver=student.sampler.kind, steps=steps, evaluations=steps)
        fd = examination.frechet(sampled.seen, classes)
        values = examination.measure(sampled.seen, subject, conditions=classes, images=sampled.images,
                                     teacher=arrays.teacher, sampling=sampling, fd=fd)  # fmt: skip
        rows.append(StudentRow(subject=subject, steps=steps, evaluations=steps, sampling=sampling,
                               values=store(values, protocols),
                               classes=tuple(examination.per_class(sampled.seen, classes)),
                               frames=tuple(examination.per_frame(sampled.seen))))  # fmt: skip
        comparisons[str(steps)] = compare(examination, steps, values, sampled, fd, baselines, arrays)
    return Evaluation(
        guidance=baselines.guidance, features=baselines.features, reference=baselines.reference,
        num_classes=baselines.num_classes, floor=baselines.floor, rows=baselines.rows, protocols=protocols,
        prompts=baselines.prompts, drawn=baselines.drawn, medium=baselines.medium, rate=baselines.rate,
        student=tuple(rows), comparisons=comparisons, samples=examination.plan.samples,
        notes=tuple(_notes(examination)))  # fmt: skip


def _notes(examination: Examination) -> list[str]:
    """What a reader should know before comparing."""
    notes, extractor, reference = [], examination.images.extractor, len(examination.images.test)
    if examination.drawn:
        notes.append(f"There are no real images: the reference is {examination.drawn}, '{examination.floor_subject}' "
                     "are others of the same kind, and copies of training images are not looked for.")
    if examination.prompts is not None:
        compared = [one for one in (extractor, *examination.images.more) if one.texts is not None]
        if not compared:
            notes.append("Nothing compares samples with their prompts: give CLIP's weights and tokenizer "
                         "(evaluate.extractors), or captioned images.")
        table, asked = examination.prompts, len(examination.plan.classes.unique())
        if asked < _FEW_PROMPTS:
            notes.append(f"Only {counted(asked, 'prompt')} of the test split: the figures say little of other prompts.")
        both = len(set(table.splits["test"]) & set(table.splits["train"]))
        if both:
            notes.append(f"{both} of the {len(table.splits['test'])} prompts that students are asked for were trained "
                         "on too: captions of images in both splits.")
        missing = int((examination.images.test.prompts < 0).sum())
        if missing:
            notes.append(f"{missing} of {reference} reference images have no caption.")
    elif not extractor.num_classes:
        notes.append("The images have no classes: distances are in principal components, class figures are left out.")
    elif not examination.plan.num_classes:
        notes.append("The models take no class: class figures are left out.")
    if reference < 10 * extractor.dimensions:
        notes.append(f"Only {reference} reference images for {extractor.dimensions} features: distances are rough.")
    return notes
