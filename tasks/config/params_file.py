"""The file params.yaml: reading it, and changing it as `--set` and `--params` ask. No torch here."""

from __future__ import annotations

import io
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from fewstep.util.config import parse
from fewstep.util.errors import SettingsError
from fewstep.util.files import write_atomically
from fewstep.util.hashing import canonical_json
from fewstep.util.plain_data import NotPlain, from_yaml, loaded
from tasks.config.preflight import validate
from tasks.config.schema import Settings
from tasks.engine import graph
from tasks.storage.workspace import Workspace


def watched() -> tuple[str, ...]:
    """Sections that dvc.yaml watches, in the order of the schema. The file must have them: DVC knows no defaults."""
    names = {name for stage in graph.IN_DVC for name in stage.params}
    return tuple(name for name in Settings.model_fields if name in names)


def read(path: Path) -> dict:
    """The mapping in a YAML 1.2 file. Raises SettingsError when it is absent, unreadable or not a mapping."""
    return _sections(_bytes(path), str(path))


def _bytes(path: Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise SettingsError(f"{path}: no such file") from None
    except OSError as error:
        raise SettingsError(f"{path}: not readable: {error.strerror}") from None


def _sections(text: bytes | str, source: str) -> dict:
    try:
        data = from_yaml(text)
    except NotPlain as error:
        raise SettingsError(f"{source}: not readable as YAML: {error}") from None
    if data is not None and not isinstance(data, dict):
        raise SettingsError(f"{source}: expected sections such as 'data:' and 'teacher:', got {type(data).__name__}")
    return data or {}


def load(path: Path) -> Settings:
    """The settings in `path`, validated. Raises SettingsError naming file and key."""
    path = Path(path)
    return parse(Settings, read(path), path.name)


def apply(data: dict, sets: list[str]) -> dict:
    """`data` with `a.b=value` assignments made in place; values are YAML. Raises SettingsError for a malformed one."""
    for text in sets:
        name, equals, value = text.partition("=")
        parts = name.strip().split(".")
        if not equals or not all(parts):
            raise SettingsError(f"--set {text!r}: expected a.b=value, such as distill.images=50000")
        try:
            value = from_yaml(value)
        except NotPlain as error:
            raise SettingsError(f"--set {text!r}: the value is not readable as YAML: {error}") from None
        section = data
        for part in parts[:-1]:
            if section.get(part) is None:
                section[part] = {}
            section = section[part]
            if not isinstance(section, dict):
                raise SettingsError(f"--set {text!r}: {part!r} holds a value, not a section")
        section[parts[-1]] = value
    return data


def write_overrides(path: Path, sets: list[str], params: Path | None = None, root: Path | None = None) -> Settings:
    """Write `params` (if given) and the assignments into `path`, keeping its comments, and return the settings.

    Everything is validated before a byte is written, and the write is atomic: on SettingsError the file is as it was.
    Relative paths in it are below `root` (default: the checkout that holds `path`, else the one we are in). Sections
    that DVC watches and the file leaves to their defaults are added, empty.

    Raises SettingsError also for a file that cannot be changed without changing more than was asked for, such as a
    section that an alias shares with another.
    """
    path = Path(path)
    source = Path(params) if params is not None else path
    text = _bytes(source)
    wanted = _sections(text, str(source))
    added = _complete(apply(wanted, sets))
    label = " and ".join(filter(None, [source.name, "--set" if sets else ""]))
    settings = parse(Settings, wanted, label)
    validate(root or _checkout(path), settings)
    if sets or added:
        text = _changed(text, sets, wanted, source)
    if not path.exists() or text != path.read_bytes():
        write_atomically(path, text)
    return settings


def completed(source: Path) -> tuple[Settings, bytes]:
    """The settings in `source`, and its text with all sections that DVC watches. Nothing that it names is looked for:
    it may be of another place. Raises SettingsError as `write_overrides`."""
    text = _bytes(source)
    wanted = _sections(text, str(source))
    added = _complete(wanted)
    settings = parse(Settings, wanted, source.name)
    return settings, _changed(text, [], wanted, source) if added else text


def _complete(document: dict) -> list[str]:
    """Adds the sections that DVC watches, in place; returns those that were lacking."""
    added = [section for section in watched() if section not in document]
    for section in added:
        document[section] = Settings.model_fields[section].default if section == "seed" else {}
    return added


def _changed(text: bytes, sets: list[str], wanted: dict, source: Path) -> bytes:
    """`text` with the assignments and all sections, its comments kept. It means what `wanted` says: SettingsError else.
    """
    yaml = YAML()
    yaml.width, yaml.preserve_quotes = 10_000, True
    stream = io.StringIO()
    try:
        document = loaded(yaml, text) or {}
        _complete(apply(document, sets))
        yaml.dump(document, stream)
        same = canonical_json(from_yaml(stream.getvalue())) == canonical_json(wanted)
    except (NotPlain, YAMLError):
        same = False
    if not same:
        raise SettingsError(f"{source}: cannot be changed and keep its form (an alias may share what is to be changed)",
                            hint="edit it by hand, or write shared sections out")
    return stream.getvalue().encode()


def _checkout(path: Path) -> Path:
    folder = path.resolve().parent
    return folder if (folder / "dvc.yaml").is_file() else Workspace.find().root
