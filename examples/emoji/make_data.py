"""`python -m examples.emoji.make_data --out DIR --count N`: pictures of emoji with captions, for `fewstep data add`."""

from __future__ import annotations

import argparse
import csv
import io
import sys
from pathlib import Path

from PIL import Image

from examples.emoji.compositions import OBJECTS, all_compositions, spread
from examples.emoji.drawing import draw_all
from examples.emoji.requirements import require
from fewstep.util.errors import FewstepError, SettingsError
from fewstep.util.files import write_atomically

TABLE = "images.csv"


def write_data(out: Path, count: int, *, font: Path, seed: int = 0, objects: int = len(OBJECTS)) -> dict[str, int]:
    """Write `count` pictures as PNG and a table of their names, classes (the object) and captions into `out`.

    Equal arguments write equal bytes. Compositions that are held out are never among them; the others are alike often.
    The table is written last. Returns how many pictures, captions and objects there are.
    Raises SettingsError for a folder that holds something, less than one picture, or objects that are not there.
    """
    if not 1 <= objects <= len(OBJECTS):
        raise SettingsError(f"--objects: there are 1 to {len(OBJECTS)}, got {objects}")
    if count < 1:
        raise SettingsError(f"--count: expected 1 or more pictures, got {count}")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SettingsError(f"{out}: is there and not empty", hint="give a new folder, or remove it")
    allowed = [one for one in all_compositions(objects) if not one.held_out]
    chosen = spread(allowed, count, seed, "emoji-train")
    table = io.StringIO(newline="")
    rows = csv.writer(table, lineterminator="\n")
    rows.writerow(["name", "class", "caption"])
    pictures = draw_all(font, chosen, seed, "emoji-train-variation")
    (out / "images").mkdir(parents=True, exist_ok=True)
    for number, (composition, picture) in enumerate(zip(chosen, pictures, strict=True)):
        name = f"images/{number:06d}.png"
        Image.fromarray(picture).save(out / name)
        rows.writerow([name, OBJECTS[composition.object], composition.caption])
    write_atomically(out / TABLE, table.getvalue())
    return {"images": count, "captions": len(set(chosen)), "objects": len({one.object for one in chosen})}


def main(arguments: list[str] | None = None) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m examples.emoji.make_data", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to make")
    parser.add_argument("--count", type=int, default=12_000, help="pictures (default 12000)")
    parser.add_argument("--objects", type=int, default=len(OBJECTS), help=f"objects, 1 to {len(OBJECTS)} (default all)")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    try:
        font, _ = require(encoder=False)
        made = write_data(given.out, given.count, font=font, seed=given.seed, objects=given.objects)
    except FewstepError as error:
        print(f"error: {error}" + (f"\n  {error.hint}" if error.hint else ""), file=sys.stderr)
        return error.exit_code
    print(f"{given.out}: {made['images']:,} pictures of {made['objects']} objects, {made['captions']:,} captions\n"
          f"next: fewstep data add {given.out}")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
