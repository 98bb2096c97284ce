"""Figures of a round between two reports, and the check that all of them are finite."""

from collections.abc import Callable

import torch
from torch import Tensor

from fewstep.util.errors import NonFinite

ROUND_HINT = (
    "lower the learning rate (distill.lr), clip harder (distill.clip) or look at the data; "
    "the run continues from its last checkpoint"
)

OnProgress = Callable[[int, int, dict[str, float]], None]
"""Called with (images done, images in all, mean figures since the last call)."""


class Figures:
    """Sums of named figures. On the CPU each is checked at once, elsewhere all together at a report (no waiting).

    where: what is trained. hint: what to do about a figure that is not finite.
    """

    def __init__(self, where: str, hint: str = ROUND_HINT):
        self.where, self.hint = where, hint
        self._sums: dict[str, list] = {}
        self._unchecked: list[tuple[int, str, str, Tensor, str]] = []

    def add(self, name: str, value: Tensor | float) -> None:
        """Takes a figure into the mean."""
        entry = self._sums.setdefault(name, [0.0, 0])
        entry[0] = entry[0] + value
        entry[1] += 1

    def require_finite(self, step: int, term: str, role: str, value: Tensor, what: str = "") -> None:
        """Raises NonFinite, now or at the next `check`, if the value, the term's loss, is NaN or infinite.

        what: says before the term's name what else the value is, such as "the gradient of ".
        """
        self._unchecked.append((step, term, role, value, what))
        if value.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raises NonFinite naming round, step, term and role of the first value that is not finite."""
        waiting, self._unchecked = self._unchecked, []
        if not waiting or bool(torch.isfinite(torch.stack([w[3].detach().float() for w in waiting])).all()):
            return
        step, term, role, value, what = next(w for w in waiting if not bool(torch.isfinite(w[3])))
        raise NonFinite(
            f"{self.where}, step {step}: {what}{term} of role '{role}' is {float(value.detach())}",
            step=step,
            term=term,
            role=role,
            hint=self.hint,
        )

    def sums(self) -> dict[str, list]:
        """What the next means are made of, as JSON data: sum and count by name. Floats hold float32 sums exactly."""
        return {name: [float(total), count] for name, (total, count) in self._sums.items()}

    def load(self, sums: dict[str, list]) -> None:
        """Go on from what `sums` gave."""
        self._sums = {name: [total, count] for name, (total, count) in sums.items()}

    def means(self) -> dict[str, float]:
        """The means since the last call, which begins anew."""
        self.check()
        sums, self._sums = self._sums, {}
        return {name: float(total) / count for name, (total, count) in sums.items()}
