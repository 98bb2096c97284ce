"""Diagrams in mermaid's language, drawn while the site is built: its pages need no script for them."""

from __future__ import annotations

import hashlib
from typing import Any

import mmdr

_NAME = "merman"    # what the drawing library calls every picture


def drawn(source: str, language: str, css_class: str, options: dict, md: Any, **_: Any) -> str:
    """The picture of a fenced block, as SVG in the page. Raises what the library raises for a source it cannot draw."""
    name = f"picture-{hashlib.sha256(source.encode()).hexdigest()[:12]}"
    picture = mmdr.render(source).svg().replace(_NAME, name)
    return f'<div class="picture">{picture}</div>'
