"""Values travel with their protocol; different protocols are never compared."""

import json
import subprocess
import sys

import pytest

from fewstep.metrics.protocol import (
    Protocol,
    ProtocolsDiffer,
    StoredValue,
    Value,
    ensure_comparable,
    restore,
    rounded,
    store,
)
from fewstep.util.errors import SettingsError


def protocol(**changed) -> Protocol:
    given = {
        "metric": "frechet_distance", "samples": 5000, "seed": 7, "noise": "evaluation", "conditions": "reference",
        "reference": "test", "reference_samples": 400, "reference_digest": "ab", "features": "classifier-16",
        "features_digest": "cd", "dimensions": 16, "parameters": {"subsets": 6},
    }  # fmt: skip
    return Protocol(**{**given, **changed})


def value(x: float, subject: str = "student, 1 step", **changed) -> Value:
    return Value(value=x, n=5000, interval=(x - 0.1, x + 0.1), protocol=protocol(**changed), subject=subject)


def test_equal_protocols_compare():
    assert value(0.5).over(value(0.25, "teacher")) == 2
    with pytest.raises(SettingsError, match="not positive"):
        value(0.5).over(value(-0.01, "teacher"))


@pytest.mark.parametrize("name, other", [("samples", 500), ("features_digest", "ef"), ("reference_digest", "xy"),
                                         ("seed", 8), ("parameters", {"subsets": 3}), ("quantised", "no")])
def test_any_difference_is_an_error_that_names_it(name, other):
    with pytest.raises(ProtocolsDiffer, match=f"student, 1 step and teacher cannot be compared.*{name}"):
        ensure_comparable(value(0.5), value(0.25, "teacher", **{name: other}))
    assert protocol(**{name: other}).digest() != protocol().digest()


def test_the_floor_may_differ_in_its_samples_only():
    floor = value(0.1, "real images", samples=1000, noise="train split", conditions="as they are")
    assert value(0.5).above_floor(floor) == pytest.approx(0.4)
    with pytest.raises(ProtocolsDiffer):
        value(0.5).over(floor)
    with pytest.raises(ProtocolsDiffer, match="features_digest"):
        value(0.5).above_floor(value(0.1, "real images", samples=1000, features_digest="ef"))


def test_stored_values_come_back_through_json():
    protocols: dict[str, Protocol] = {}
    text = json.dumps(store({"fd": value(0.123456789)}, protocols)["fd"].model_dump(mode="json"))
    assert json.loads(text) == {"value": 0.123457, "n": 5000, "interval": [0.0234568, 0.223457],
                                "protocol": protocol().digest()}
    kept = {digest: Protocol(**json.loads(one.model_dump_json())) for digest, one in protocols.items()}
    back = restore({"fd": StoredValue(**json.loads(text))}, kept, "student, 1 step")["fd"]
    assert back.protocol == protocol() and back.value == 0.123457
    assert rounded(float("nan")) is None


def test_protocols_are_read_without_torch():
    code = "import sys, fewstep.metrics.protocol; sys.exit('torch' in sys.modules or 'sklearn' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
