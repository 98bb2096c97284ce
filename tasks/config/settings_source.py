"""Settings by the name of an example, or from a file. No torch here."""

from __future__ import annotations

from pathlib import Path

from fewstep.util.config import unknown
from fewstep.util.errors import NotAvailable, SettingsError
from fewstep.util.source_code import ROOT

EXAMPLES = "examples"


def source_of(name: str | None, option: str = "--from") -> Path:
    """The file of settings that `option` names: params.yaml of the code for None, a file by its path, or an example of
    the code by its name. Raises SettingsError for an unknown one, NotAvailable where the code has no params.yaml.
    """
    if name is None:
        found = ROOT / "params.yaml"
        if not found.is_file():
            raise NotAvailable(f"the installed code, {ROOT}, has no params.yaml to begin with",
                               hint="give settings by --from FILE, or install a checkout: pip install -e FOLDER")
        return found
    bare = name.removeprefix(f"{EXAMPLES}/").removesuffix(".yaml").removesuffix(".yml")
    known = sorted(path.stem for path in (ROOT / EXAMPLES).glob("*.yaml"))
    for path in (Path(name).expanduser(), ROOT / EXAMPLES / f"{bare}.yaml"):
        if path.is_file():
            return path
    raise SettingsError(f"{option} {name}: no such file; {unknown('example', bare, known)}",
                        hint=f"examples: {', '.join(known)}" if known else "give the path of a params.yaml")
