import gc
import threading
import weakref

import pytest
import torch

from fewstep.training.step.ahead import Ahead
from fewstep.training.step.keyed_draws import Draws
from tests.fewstep.training.small import BATCH, Pairs, data, finish, run, tiny, trainers_of

CPU = torch.device("cpu")


class Told:
    """A source that says which thread reads it."""

    def __init__(self, source):
        self.source, self.threads = source, []

    def __getattr__(self, name):
        return getattr(self.source, name)

    def batch(self, seed, position, size):
        self.threads.append(threading.current_thread().name)
        return self.source.batch(seed, position, size)


@pytest.mark.parametrize("name", ["dmd2", "kd", "ladd", "tcm", "sdxl-lightning"])
def test_a_run_whose_steps_are_made_ahead_has_the_same_bits_also_after_a_resume(name, tmp_path):
    recipe = tiny(name)
    plain = finish(run(recipe, tmp_path / "plain", made_ahead=False))
    ahead = finish(run(recipe, tmp_path / "ahead", made_ahead=True))
    assert all(torch.equal(ahead[key], plain[key]) for key in plain)

    class Enough(Exception):
        pass

    def stop(done, *_):
        if done >= 3 * BATCH:
            raise Enough

    job = run(recipe, tmp_path / "stopped", made_ahead=True)
    with pytest.raises(Enough):
        finish(job, stop)
    resumed = finish(run(recipe, tmp_path / "stopped", made_ahead=True))
    assert all(torch.equal(resumed[key], plain[key]) for key in plain)


def test_all_but_the_first_steps_of_each_turn_are_read_by_the_thread(tmp_path):
    real, pairs = Told(data()), Told(Pairs())
    job = run(tiny("dmd2"), tmp_path, data=real, made_ahead=True)
    made = trainers_of(job)
    finish(job)
    here = real.threads.count("MainThread")     # the digest of the data, and the first steps of every turn
    assert here <= 1 + 2 * len(set(made[0].cycle)) and real.threads.count("ahead") == len(real.threads) - here > here
    job = run(tiny("kd"), tmp_path / "pairs", pairs=pairs, made_ahead=True)
    finish(job)
    assert pairs.threads.count("MainThread") <= 3 < pairs.threads.count("ahead")


def test_on_the_cpu_nothing_is_made_ahead_unless_asked_for(tmp_path):
    real = Told(data())
    finish(run(tiny("dmd2"), tmp_path, data=real))
    assert "ahead" not in real.threads


def test_what_cannot_be_read_ends_the_training_with_its_own_error(tmp_path):
    class Broken(Pairs):
        def batch(self, seed, position, size):
            if position == 5 * BATCH:
                raise OSError("the disk is gone")
            return super().batch(seed, position, size)

    job = run(tiny("kd"), tmp_path, pairs=Broken(), made_ahead=True)
    made = trainers_of(job)
    with pytest.raises(OSError, match="the disk is gone"):
        finish(job)
    assert made[0]._ahead is None       # whoever takes a step of it by itself has fresh draws
    assert not [one for one in threading.enumerate() if one.name == "ahead"]


def test_a_step_gets_what_it_asks_for_and_its_draws_are_given_up_after_it():
    def draws_of(step):
        return Draws(3, 0, step, 4, CPU)

    with Ahead(draws_of, lambda step: step % 2, 6) as ahead:
        gone = []
        for step in range(6):
            draws, expected = ahead.draws(step), draws_of(step)
            assert torch.equal(draws.normal("a", (2,)), expected.normal("a", (2,)))
            if step % 2:        # an odd step asks for more, and in the end for something new
                assert torch.equal(draws.uniform("b"), expected.uniform("b"))
            if step == 5:
                assert torch.equal(draws.integers("c", 9), expected.integers("c", 9))
            gone.append(weakref.ref(draws))
            del draws
        gc.collect()
        assert not any(one() is not None for one in gone[:-1])
