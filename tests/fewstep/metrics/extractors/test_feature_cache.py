"""What was seen in the reference is kept by content, and made again where the file is damaged."""

import numpy as np

from fewstep.metrics.extractors.feature_cache import kept


def test_observations_are_kept_by_content_and_made_again_when_damaged(tmp_path):
    made = []

    def make():
        made.append(1)
        return {"features": np.arange(6.0).reshape(2, 3)}

    first = kept(tmp_path / "cache", "a", make)
    again = kept(tmp_path / "cache", "a", make)
    assert made == [1] and np.array_equal(first["features"], again["features"])
    assert kept(tmp_path / "cache", "b", make) and len(made) == 2
    for path in (tmp_path / "cache").iterdir():
        path.write_bytes(path.read_bytes()[:20])
    kept(tmp_path / "cache", "a", make)
    assert len(made) == 3 and kept(None, "a", make) and len(made) == 4
    assert kept(tmp_path / "cache", "a", make) and len(made) == 4
