"""Groups of classes: labels that say less than a class and more than nothing, as one of several conditions does.

A class that is a pair of conditions (a row and a column) lies in the group of those that share one of them (the row).
So a label stays one number, and what it says is left out condition by condition along its chain: class, group, none.
Torch-free.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fewstep.util.errors import SettingsError

Groups = tuple[tuple[int, ...], ...]


def require_groups(groups: Iterable[Sequence[int]], classes: int, null: int | None) -> Groups:
    """The groups, each sorted, as tuples.

    Raises SettingsError unless each is of two or more of the classes 0 ... classes - 1, not all of them, no two are the
    same, any two are nested or have nothing in common, and the label of no class is `classes`, after which the labels
    of the groups follow.
    """
    found = tuple(tuple(sorted(group)) for group in groups)
    if found and null != classes:
        raise SettingsError(f"groups of classes need the label {classes} for no class, this network has {null}")
    sets = [set(group) for group in found]
    for group, members in zip(found, sets, strict=True):
        known = all(0 <= member < classes for member in members)
        if not known or len(members) != len(group) or not 2 <= len(members) < classes:
            raise SettingsError(f"a group is of two or more of the {classes} classes but not of all, got {list(group)}")
    for k, one in enumerate(sets):
        for other in sets[:k]:
            if one == other or (one & other and not (one < other or other < one)):
                raise SettingsError(
                    f"groups are nested or have no class in common, got {sorted(other)} and {sorted(one)}",
                    hint="a condition that crosses another (columns beside rows) has no place in one chain",
                )
    return found


def chains(classes: int, groups: Groups) -> list[list[int]]:
    """(conditions + 1) rows of labels: row j has of every label what is left of it with its first j conditions.

    Labels: the classes, `classes` for none, then the groups in turn. Row 0 is none, the last row the label itself;
    labels of shorter chains repeat themselves.
    """
    labels = [{label} for label in range(classes)] + [set(range(classes))] + [set(group) for group in groups]
    wider = sorted(range(classes + 1, len(labels)), key=lambda label: -len(labels[label]))
    found = [[classes, *(other for other in wider if members < labels[other]), label]
             for label, members in enumerate(labels)]  # fmt: skip
    return [[chain[min(row, len(chain) - 1)] for chain in found] for row in range(1 + conditions(groups))]


def conditions(groups: Sequence[Sequence[int]]) -> int:
    """How many conditions the longest chain has: a class's own, and one for every group that it lies in."""
    depths = [sum(set(one) <= set(other) for other in groups) for one in groups]
    return 1 + max(depths, default=0)
