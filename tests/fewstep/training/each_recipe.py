"""Every recipe as a test's parameter: one of each way to train in `make test`, all in `make test-slow`."""

import pytest

from fewstep.recipes import recipe_names

# of several rounds; a target and a start; path and forward derivative; a guide; fresh networks; a classifier
SOME = ["progressive", "tcm", "disback", "plug-and-play", "ct", "mmd-ddm", "pi-flow", "meanflow", "add", "dmd2"]
EACH_RECIPE = [pytest.param(name, marks=() if name in SOME else pytest.mark.slow) for name in recipe_names()]
