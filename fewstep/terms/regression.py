"""Regression on what the teacher's solver made: knowledge distillation on cached pairs or stored states."""

from typing import TYPE_CHECKING

from fewstep.errors import SettingsError
from fewstep.recipes import terms as settings
from fewstep.terms.base import Loss, Term
from fewstep.terms.distances import pseudo_huber, squared

if TYPE_CHECKING:
    from fewstep.training.step import Step


class Regression(Term[settings.Regression]):
    """L = 1/2 E d(G(x_t, t), x_end), d mean square or pseudo-Huber (Luhman and Luhman, 2101.02388).

    `at: noise`: x_t is the student's starting state of the noise z. `at: states`: (x_t, t) is a stored state of the
    trajectory of z, drawn uniformly.
    """

    name = "regression"

    def loss(self, step: "Step") -> Loss:
        pair = step.pair
        if self.settings.at == "states":
            states, times = pair.get("states"), pair.get("times")
            if states is None or times is None:
                raise SettingsError("regression at states needs a trajectory set with states (trajectories.keep)")
            chosen = step.integers("state", states.shape[1])
            x_t, t = states[step.rows, chosen], times[chosen]
        else:
            x_t, t = step.start(pair["noise"]), step.full(step.grid[0])
        student = step.student.predict(x_t, t, step.condition).x0
        if self.settings.distance == "l2":
            distance = squared(student, pair["x"])
        else:
            distance = pseudo_huber(student, pair["x"], self.settings.huber)
        return 0.5 * distance.mean(), {}
