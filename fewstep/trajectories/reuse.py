"""Records of a finished set that another, usually larger, set can take over byte for byte."""

from pathlib import Path

from fewstep.data.records import ShardReader, read_index
from fewstep.data.records.shard_index import index_path
from fewstep.trajectories import set_description
from fewstep.trajectories.set_plan import SetPlan
from fewstep.util.errors import CorruptData, SettingsError


class PreviousSet:
    """The usable records of a former set: those of equal content key fields, numbered like the new one's.

    Attributes:
        records: numbers of the records that it can give.
        backends: the backends that made them.
    """

    def __init__(self, folder: Path | None = None, shards: list[Path] = (), records: int = 0, backends: list = ()):
        self.folder = folder
        self.backends = list(backends)
        self.records = set(range(records))
        self._places: dict[int, tuple[Path, int]] = {}
        number = 0
        for path in shards:
            for place, entry in enumerate(read_index(index_path(path)).records):
                if entry.name != set_description.record_name(number):
                    raise CorruptData(f"{path}: record {entry.name} where {number} is expected")
                self._places[number] = (path, place)
                number += 1
        if number < records:
            raise CorruptData(f"{folder}: {number} records, {set_description.NAME} says at least {records}")

    @classmethod
    def open(cls, folder: Path | str | None, plan: SetPlan) -> "PreviousSet":
        """The records of the set in ``folder`` that fit ``plan``; an empty one if there is no set or none fits.

        Raises:
            CorruptData: the set is there, fits, and is damaged.
        """
        if folder is None:
            return cls()
        folder = Path(folder)
        try:
            content = set_description.read(folder)
        except SettingsError:
            return cls()
        if content.get("fields") != plan.fields:
            return cls()
        held = sum(shard["records"] for shard in content["shards"])
        shards = [folder / shard["name"] for shard in content["shards"]]
        return cls(folder, shards, min(held, plan.records), content["backends"])

    def payload(self, record: int) -> bytes:
        """The verified bytes of ``record``. Raises CorruptData naming the file."""
        path, place = self._places[record]
        try:
            with ShardReader(path) as reader:
                return reader.payload(place)
        except CorruptData as error:
            error.hint = f"bring {path.parent} back (`dvc checkout`) or remove it, then resume"
            raise
