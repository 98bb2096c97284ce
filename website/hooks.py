"""What mkdocs calls while it builds the site: pages that are generated, and links that lead out of docs/."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))       # where mkdocs is started by its own command

from website import commands, settings  # noqa: E402

CONTRIBUTING = "contributing.md"
_LINK = re.compile(r"\[([^\]]*)\]\(((?:\.\./)*)([\w./-]+)(#[\w-]+)?\)")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Tables that a command wrote, and that mkdocs.yml does not name yet, stand among the figures."""
    named = set(_pages(config.nav))
    figures = next(part["Figures"] for part in config.nav if isinstance(part, dict) and "Figures" in part)
    figures += sorted(path.name for path in (ROOT / "docs").glob("*.md") if path.name not in named)
    return config


def _pages(nav: object) -> Iterator[str]:
    for part in nav.values() if isinstance(nav, dict) else nav if isinstance(nav, list) else ():
        if isinstance(part, str):
            yield part
        else:
            yield from _pages(part)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The pages that are made of code, and those that lie elsewhere in the repository."""
    made = {"reference/commands.md": commands.page(), "reference/settings.md": settings.params_page(),
            "reference/recipe-settings.md": settings.recipe_page(),
            CONTRIBUTING: (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8"),
            "site.css": (ROOT / "website" / "site.css").read_text(encoding="utf-8")}
    for path, content in made.items():
        files.append(File.generated(config, path, content=content))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the repository has them lead to the site's pages; what is no page is named, not linked."""
    here = Path("docs", page.file.src_uri).parent if page.file.src_uri != CONTRIBUTING else Path()

    def led(found: re.Match[str]) -> str:
        text, up, path, anchor = found.groups()
        target = Path(*_normal((here / (up + path)).parts))
        if target.parts[:1] == ("docs",) and page.file.src_uri != CONTRIBUTING:
            return found[0]
        known = {Path("CONTRIBUTING.md"): CONTRIBUTING, Path("README.md"): "index.md"}
        page_path = known.get(target) or (target.relative_to("docs").as_posix() if target.parts[0] == "docs" else None)
        if page_path is None:
            if not (ROOT / target).exists():
                raise FileNotFoundError(f"{page.file.src_uri}: {target} is not there")
            return f"{text} (`{target.as_posix()}`)" if text != target.as_posix() else f"`{text}`"
        return f"[{text}]({'../' * (len(here.parts) - 1)}{page_path}{anchor or ''})"

    return _LINK.sub(led, markdown)


def _normal(parts: tuple[str, ...]) -> list[str]:
    kept: list[str] = []
    for part in parts:
        if part == "..":
            kept.pop()
        else:
            kept.append(part)
    return kept
