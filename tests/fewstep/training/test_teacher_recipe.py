import pytest

from fewstep.training.teacher_training import teacher_recipe


@pytest.mark.parametrize(("images", "batch", "share"), [(250_000, 128, 0.02), (1_000_000, 64, 0.001), (1000, 50, 1.0)])
def test_half_of_the_average_is_younger_than_the_share_of_the_training_that_is_set(images, batch, share):
    decay = teacher_recipe(1e-3, images, batch, 1, share, 0.1).training.ema
    assert decay ** (share * images / batch) == pytest.approx(0.5)


def test_no_share_is_no_average():
    assert teacher_recipe(1e-3, 1000, 10, 1, 0.0, 0.1).training.ema == 0
