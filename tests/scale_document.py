"""docs/scale.md: parts of it are written by different commands, each from its heading to the next one."""

from __future__ import annotations

from fewstep.util.files import write_atomically
from tests.project import ROOT

DOCUMENT = ROOT / "docs" / "scale.md"


def write_part(part: str) -> None:
    """Put a part, which begins with its heading `# …`, in the place of the former one, or at the end."""
    heading = part.partition("\n")[0]
    text = DOCUMENT.read_text(encoding="utf-8") if DOCUMENT.exists() else ""
    write_atomically(DOCUMENT, replaced(text, heading, part))


def replaced(text: str, heading: str, part: str) -> str:
    """`text` with the part of this heading, which may not have been there."""
    parts = [f"# {one}" for one in f"\n{text}".split("\n# ")[1:]]
    found = [part.strip() if one.partition("\n")[0] == heading else one.strip() for one in parts]
    if part.strip() not in found:
        found.append(part.strip())
    return "\n\n".join(found) + "\n"
