"""The whole page: sections in order, style and script inlined, nothing fetched from anywhere."""

from __future__ import annotations

from html import escape
from pathlib import Path

from tasks.report import (
    frame_section,
    header,
    memorisation,
    playing_section,
    provenance_section,
    quality_section,
    sample_section,
    table_section,
    training_section,
)
from tasks.report.formatting import section
from tasks.report.report_data import Material

_HERE = Path(__file__).parent
_POLICY = "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_PARTS = (
    ("quality", "Quality against cost", quality_section.quality,
     "Solid line: student. Others: the teacher under training-free solvers, which need no student. Touch a point for "
     "its interval and n, a name to hide its curve."),
    ("pictures", "From the same noise", sample_section.pictures,
     "The same place in every grid is the same noise, and each row one class: a student that agrees with its teacher "
     "shows the same picture."),
    ("playing", "Played", playing_section.playing,
     "The same samples from the same noise, as they run."),
    ("frames", "By frame", frame_section.frames,
     "How far every frame is from the same frame of the reference: a student that drifts grows worse towards the end."),
    ("ways", "From noise to sample", sample_section.ways, "Each row is one sample; states are shown at unit variance."),
    ("everything", "All figures", table_section.everything, ""),
    ("classes", "By class", table_section.classes, "In the fewest steps; the class recognised worst is marked."),
    ("memory", "Nearest training images", memorisation.closest,
     "A model that copies draws samples much nearer to training images than new real images are."),
    ("training", "Training", training_section.training,
     "Losses of adversarial and distribution-matching terms are no measure of quality."),
    ("cost", "Cost", training_section.costs, ""),
    ("protocol", "Protocol", provenance_section.protocol,
     "Values are compared only where all of this agrees; it travels with them into DVC, MLflow and the registry."),
    ("settings", "Settings", provenance_section.settings, ""),
    ("lineage", "Lineage", provenance_section.lineage, "The command fewstep lineage verifies it, byte by byte."),
)  # fmt: skip

_OF_PROMPTS = {
    "pictures": ("From the same noise", "The same place in every grid is the same noise, and each row one prompt: a "
                 "student that agrees with its teacher shows the same picture."),
    "classes": ("By group of prompts", "In the fewest steps; the group whose prompts are found least is marked."),
}  # fmt: skip
"""Heading and intro of sections that speak of classes, for models of prompts."""


_OF_MEDIA = {
    "videos": {"pictures": "Of a video four frames are shown, from its first to its last."},
    "sound": {"pictures": "Of a sound its spectrogram is shown, low tones below, time to the right.",
              "ways": "Each row is one sample, shown by its spectrogram."},
}  # fmt: skip
"""What is added to the intro of sections whose pictures are not the samples themselves."""


def render(materials: list[Material]) -> str:
    """The page of one student, or of several side by side (whose protocols the caller has checked)."""
    first = materials[0]
    title = " and ".join(one.label for one in materials)
    told = _OF_PROMPTS if first.document.prompts else {}
    added = _OF_MEDIA.get(first.document.medium, {})
    made = [(name, shown, f"{lead} {added.get(name, '')}".strip(), part(materials)) for name, heading, part, intro in
            _PARTS for shown, lead in [told.get(name, (heading, intro))]]
    links = "".join(f'<a href="#{name}">{escape(heading)}</a>' for name, heading, _, body in made if body)
    recipe = first.stages["distill"].summary.get("recipe") if "distill" in first.stages else None
    about = [f"recipe {recipe}" if recipe and len(materials) == 1 else "",
             f"{first.document.samples:,} samples against {first.document.reference:,} "
             f"{'samples of the teacher' if first.document.drawn else f'held-out {first.document.medium}'}",
             f"features {first.document.features}", f"commit {first.told_commit(10)}" if first.commit else ""]
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><meta name="color-scheme" content="light dark">
<title>{escape(title)} – fewstep</title><link rel="icon" href="data:,">
<style>{(_HERE / "style.css").read_text()}</style></head>
<body><header><p class="brand">fewstep</p><h1>{escape(title)}</h1>
<p class="dim">{escape(" · ".join(filter(None, about)))}</p>
{header.top(materials)}<nav>{links}</nav></header>
<main>{"".join(section(name, heading, body, escape(intro)) for name, heading, intro, body in made)}</main>
<div id="tip" role="status"></div><script>{(_HERE / "script.js").read_text()}</script></body></html>
"""
