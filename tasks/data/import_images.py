"""`fewstep data add`: copies images and prompts into data/raw, all or none, and records the folder in DVC. No torch
here."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path, PurePosixPath

from fewstep.data.prompt import Prompt
from fewstep.data.tables import shown
from fewstep.util.errors import SettingsError
from fewstep.util.files import restore_aside, swap_folders, sync_tree
from fewstep.util.pixel_sizes import size_text
from tasks.config import params_file
from tasks.data.image_folder import PROMPTS, TABLE, Listing, list_images
from tasks.storage.file_io import clone_or_copy
from tasks.storage.locks import workspace_lock
from tasks.storage.workspace import Workspace


def import_images(workspace: Workspace, path: Path | str, *, replace: bool = False) -> dict:
    """Copy the images and prompts that `path` holds into data/raw and record the folder in DVC (data/raw.dvc).

    Args:
        workspace: the checkout.
        path: a folder, table or file of prompts, as in `list_images`.
        replace: forget what is there.

    Returns:
        {"images", "classes", "captions", "prompts", "added", "source", "left_out"}: counts after the call, the
        data.source in params.yaml, and in words what was not taken (or None).

    Raises:
        SettingsError: as `add_images`; nothing has changed.
        Busy: a run works in this checkout.
        FewstepError: DVC refused; the images are in data/raw, and calling again records them.
    """
    from tasks.storage.dvc import dvc_repo  # DVC

    path = Path(path).expanduser().resolve()
    raw = workspace.data / "raw"
    data = params_file.load(workspace.params).data
    with workspace_lock(workspace, "fewstep data add"):
        complete_swap(raw)
        before = 0 if replace else _count(_there(raw))
        listing = add_images(path, raw, replace=replace, max_left_out=data.max_corrupt_share)
        with dvc_repo.repository(workspace) as repo:
            repo.add([str(raw)])
    return {
        "images": len(listing.items),
        "classes": list(listing.classes),
        "captions": listing.captioned,
        "prompts": len(listing.prompts),
        "added": _count(listing) - before,
        "source": data.source,
        "left_out": listing.told_left_out,
    }


def add_images(path: Path | str, raw: Path, *, replace: bool = False, max_left_out: float = 0.01) -> Listing:
    """Copy the images and prompts that `path` holds into the folder `raw`, together with those that are there.

    The new folder is made beside the old one and put in its place when it is whole.

    Args:
        path: as in `list_images`.
        raw: data/raw of the workspace.
        replace: forget what is there.
        max_left_out: allowed share of files that cannot be taken (data.max_corrupt_share).

    Returns:
        The listing of `raw` as it then is, with what of `path` was not taken.

    Raises:
        SettingsError: as `list_images`; more files than allowed cannot be taken; an image of the same name and other
            content is there, or the same prompt in another group; or classes would be mixed with images without.
            Nothing has changed then.
    """
    new = list_images(path)
    new.require_share(max_left_out)
    raw = Path(raw)
    if raw.resolve() == new.folder.resolve():
        return new
    complete_swap(raw)
    there = Listing(raw, (), ()) if replace else _there(raw)
    known = {item.name: item for item in there.items}
    prompts = _together(raw, there.prompts, new.prompts)
    if known and new.items and any(item.label is not None for item in known.values()) != bool(new.classes):
        raise SettingsError(f"{raw}: only one of the old and the new images have classes", hint="use --replace")
    for item in new.items:
        if item.name in known and (known[item.name] != item or not all(
                _equal(raw / name, new.folder / name) for name in item.files)):  # fmt: skip
            raise SettingsError(f"{raw / item.name}: another image of this name is there", hint="rename it")
    making = raw.with_name(f".{raw.name}.new")
    shutil.rmtree(making, ignore_errors=True)
    items = sorted({**known, **{item.name: item for item in new.items}}.values(), key=lambda item: item.name)
    making.mkdir(parents=True)
    for item in items:
        for name in item.files:
            if (making / name).exists():    # one control for several images, or a name that both folders have
                if not _equal(making / name, (raw if item.name in known else new.folder) / name):
                    raise SettingsError(f"{raw / name}: another image of this name is there", hint="rename it")
                continue
            (making / name).parent.mkdir(parents=True, exist_ok=True)
            clone_or_copy((raw if item.name in known else new.folder) / name, making / name)
    if any(item.caption is not None or item.label != PurePosixPath(item.name).parts[0] for item in items):
        with open(making / TABLE, "w", encoding="utf-8") as file:
            for item in items:
                file.write(_row({"name": item.name, "class": item.label, "caption": item.caption,
                                 "negative": item.negative, "group": item.group, "size": item.size, **item.given}))
    if prompts:
        with open(making / PROMPTS, "w", encoding="utf-8") as file:
            for prompt in prompts:
                file.write(_row({"prompt": prompt.text, "negative": prompt.negative, "group": prompt.group,
                                 "size": prompt.size}))
    list_images(making)
    sync_tree(making)
    aside = raw.with_name(f".{raw.name}.old")
    swap_folders(making, raw, aside)
    shutil.rmtree(aside, ignore_errors=True)
    return dataclasses.replace(list_images(raw), left_out=new.left_out, notes=new.notes)


def complete_swap(raw: Path) -> None:
    """Complete or undo a killed `add_images`: the old folder comes back unless the new one is in place."""
    aside = raw.with_name(f".{raw.name}.old")
    restore_aside(raw, aside)
    shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(raw.with_name(f".{raw.name}.new"), ignore_errors=True)


def _there(raw: Path) -> Listing:
    return list_images(raw) if raw.is_dir() and any(raw.iterdir()) else Listing(raw, (), ())


def _count(listing: Listing) -> int:
    return len(listing.items) + len(listing.prompts)


def _together(raw: Path, known: tuple[Prompt, ...], new: tuple[Prompt, ...]) -> tuple[Prompt, ...]:
    """The prompts that are there and after them the new ones, each once."""
    found = {prompt: prompt for prompt in known}
    for prompt in new:
        if found.setdefault(prompt, prompt).group != prompt.group:
            raise SettingsError(f"{raw / PROMPTS}: {shown(prompt.text)[:80]!r} is there in group "
                                f"{found[prompt].group!r}, not {prompt.group!r}", hint="use --replace")
    return tuple(found.values())


def _row(values: dict) -> str:
    """A line of a table: what is None is left out, and a size (height, width) is WIDTHxHEIGHT."""
    if values["size"] is not None:
        values = values | {"size": size_text(values["size"])}
    return json.dumps({name: value for name, value in values.items() if value is not None}, ensure_ascii=False) + "\n"


def _equal(one: Path, two: Path) -> bool:
    return one.stat().st_size == two.stat().st_size and one.read_bytes() == two.read_bytes()
