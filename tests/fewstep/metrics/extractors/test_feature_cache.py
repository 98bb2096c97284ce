"""What was seen in the reference is kept by content, and made again where the file is damaged."""

import numpy as np

from fewstep.metrics.distances.frechet import frechet_extrapolated, frechet_of_blocks
from fewstep.metrics.distances.moments import Moments
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


def test_a_frechet_distance_streams_through_blocks_of_any_batches():
    """Sums per block are all that is kept, so memory does not depend on the number of samples."""
    source = np.random.default_rng(0)
    features, reference = source.normal(size=(2400, 5)), source.normal(0.2, 1.1, size=(480, 5))
    whole = frechet_extrapolated(features, reference)
    blocks: list[Moments | None] = [None] * 24
    for start in range(0, 2400, 70):  # batches that fit no block
        for i, row in enumerate(features[start : start + 70], start):
            one = Moments.of(row[None])
            blocks[i // 100] = one if blocks[i // 100] is None else blocks[i // 100] + one
    streamed = frechet_of_blocks(blocks, [Moments.of(part) for part in np.split(reference, 24)])
    assert np.isclose(streamed.infinite, whole.infinite, rtol=1e-9) and np.isclose(streamed.finite, whole.finite)
    assert np.isclose(streamed.infinite_error, whole.infinite_error, rtol=1e-6)
