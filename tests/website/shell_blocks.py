"""The commands that the documents show: blocks of shell in Markdown, taken apart."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from tests.project import ROOT

PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
_BLOCK = re.compile(r"^```([^\n]*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"(?:^|\n\n)((?:    .*\n?|\n(?=    ))+)")


@dataclass(frozen=True)
class Block:
    """A block of shell: its page, its text, and whether a test runs it."""

    page: Path
    text: str
    tried: bool

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command; what one line chains by && or | are several."""
        found = []
        for line in self.text.replace("\\\n", " ").splitlines():
            lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;")
            lexer.whitespace_split = True
            words: list[str] = []
            for word in [*lexer, ";"]:
                if set(word) <= set("|&;"):
                    found += [words] if words else []
                    words = []
                else:
                    words.append(word)
        return found


def blocks(page: Path) -> list[Block]:
    """The page's blocks of shell, in order; and what is indented as code, in which a line of `fewstep` is one."""
    text, found = page.read_text(encoding="utf-8"), []
    for kind, body in _BLOCK.findall(text):
        words = kind.strip(" {}").replace(".", " ").split()
        if "shell" in words:
            found.append(Block(page, body, "tried" in words))
    for body in _INDENTED.findall(_BLOCK.sub("", text)):
        lines = [line[4:] for line in body.splitlines() if line.strip()]
        if lines and all(line.split()[0] in ("fewstep", "make", "python", "dvc") for line in lines):
            found.append(Block(page, "\n".join(lines), False))
    return found
