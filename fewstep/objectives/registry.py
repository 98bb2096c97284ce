"""The terms: each folder of this package with a `settings.py` is one, under the folder's name.

Their modules are imported by name at run time, so that no module imports every term in its source: the code that trains
a recipe is that of the terms which the recipe names (`term_modules`). All settings are imported here, without torch; a
loss is imported when its term is built.
"""

import importlib
import inspect
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, Union, get_args

from pydantic import BeforeValidator, Field

from fewstep import objectives
from fewstep.objectives.term_settings import TermSettings
from fewstep.util.config import unknown

if TYPE_CHECKING:
    from fewstep.objectives.term import Term

Class = TypeVar("Class", bound=type)


def term_names() -> tuple[str, ...]:
    """Names of all terms, sorted."""
    files = [file for folder in objectives.__path__ for file in Path(folder).glob("*/settings.py")]
    return tuple(sorted(file.parent.name for file in files))


def term_modules(name: str) -> tuple[str, str]:
    """Dotted names of the two modules that a term is made of: its settings and its loss."""
    return f"{objectives.__name__}.{name}.settings", f"{objectives.__name__}.{name}.loss"


def term_settings(name: str) -> type[TermSettings]:
    """The class of settings of the term `name`.

    Raises ValueError for an unknown term, TypeError for a folder without exactly one such class, or whose class has
    another name in `term`.
    """
    if name not in (known := term_names()):
        raise ValueError(unknown("term", name, known))
    kind = _only_subclass(importlib.import_module(term_modules(name)[0]), TermSettings)
    tags = get_args(kind.model_fields["term"].annotation)
    if tags != (name,):
        raise TypeError(f"{kind.__module__}: `term` of {kind.__name__} must be Literal[{name!r}], got {list(tags)}")
    return kind


def build(settings: TermSettings) -> "Term":
    """The term of these settings. Raises TypeError for a loss.py without exactly one subclass of Term."""
    from fewstep.objectives.term import Term  # imports torch, which settings do without

    return _only_subclass(importlib.import_module(term_modules(settings.term)[1]), Term)(settings)


def _only_subclass(module: ModuleType, base: Class) -> Class:
    """The one class of `module` itself that derives from `base`."""
    found = [kind for _, kind in inspect.getmembers(module, inspect.isclass)
             if issubclass(kind, base) and kind.__module__ == module.__name__]  # fmt: skip
    if len(found) != 1:
        names = [kind.__name__ for kind in found]
        raise TypeError(f"{module.__name__}: expected one subclass of {base.__name__}, got {names}")
    return found[0]


def _require_known(data: Any) -> Any:
    """`data` as it is; ValueError, with the nearest name, if it names an unknown term."""
    name = data.get("term") if isinstance(data, dict) else None
    if isinstance(name, str) and name not in (known := term_names()):
        raise ValueError(unknown("term", name, known))
    return data


AnyTerm = Annotated[
    Union[tuple(term_settings(name) for name in term_names())],  # noqa: UP007 (a union of a computed list)
    Field(discriminator="term"),
    BeforeValidator(_require_known),
]
"""Settings of any term, told apart by `term`: the type of what a recipe lists."""
