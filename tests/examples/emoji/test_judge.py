import itertools

import pytest
import torch

from examples.emoji.compositions import COLOURS, Composition, all_compositions
from examples.emoji.judge import TOLERANCE, fit_judge, judge, nearest_colour, nearest_layout, real_pictures

OBJECTS = 4


@pytest.fixture(scope="module")
def every():
    return all_compositions(OBJECTS)


@pytest.fixture(scope="module")
def real(font, every):
    return real_pictures(font, every)


@pytest.fixture(scope="module")
def classifier(font):
    return fit_judge(font, objects=OBJECTS, count=384, steps=60)


def test_colours_are_too_far_apart_to_be_taken_for_each_other():
    colours = torch.tensor(list(COLOURS.values()), dtype=torch.float32)
    assert all(float((a - b).norm()) > 1.75 * TOLERANCE for a, b in itertools.combinations(colours, 2))


def test_real_pictures_are_judged_right(classifier, real, every):
    shares = judge(classifier, real, every).shares()
    assert shares["colour"] == 1.0 and shares["object"] >= 0.9
    assert shares["layout"] >= 0.97  # of a red apple on red, little differs from the background


def test_what_was_not_asked_for_is_judged_wrong(classifier, real, every):
    asked = [Composition((one.object + 1) % OBJECTS, (one.colour + 1) % len(COLOURS), (one.layout + 1) % 3)
             for one in every]  # fmt: skip
    shares = judge(classifier, real, asked).shares()
    assert shares["colour"] == shares["all"] == 0.0 and shares["layout"] <= 0.03 and shares["object"] <= 0.1


def test_shares_of_some_pictures(classifier, real, every):
    verdict = judge(classifier, real, every)
    large = torch.tensor([one.layout == 0 for one in every])
    assert verdict.shares(large)["object"] == float(verdict.object[large].double().mean())


def test_what_shows_nothing_has_no_object_layout_and_a_grey_one_no_colour():
    flat = torch.zeros(1, 3, 32, 32)
    assert nearest_colour(flat).tolist() == [-1] and nearest_layout(flat).tolist() == [-1]
