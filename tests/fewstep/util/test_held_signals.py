"""Signals are noted inside the block and acted on when it says so, at its end, or when they come again."""

import signal
import threading

import pytest

from fewstep.util.held_signals import ENDING, HeldSignals


@pytest.fixture
def heard():
    """What reaches the handlers that were there before."""
    numbers = []
    former = {number: signal.signal(number, lambda number, frame: numbers.append(number)) for number in ENDING}
    yield numbers
    for number, handler in former.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", ENDING)
def test_it_waits_for_its_delivery(heard, number):
    with HeldSignals() as held:
        signal.raise_signal(number)
        assert held.arrived == number and heard == []
        held.deliver()
        assert heard == [number] and held.arrived is None
        signal.raise_signal(number)     # nothing is held any more
        assert heard == [number, number]
    assert heard == [number, number]


def test_the_end_of_the_block_delivers_and_handlers_are_as_before(heard):
    before = [signal.getsignal(number) for number in ENDING]
    with HeldSignals():
        signal.raise_signal(signal.SIGTERM)
        assert heard == []
    assert heard == [signal.SIGTERM] and [signal.getsignal(number) for number in ENDING] == before


def test_an_error_in_the_block_delivers_too(heard):
    with pytest.raises(ValueError), HeldSignals():
        signal.raise_signal(signal.SIGINT)
        raise ValueError
    assert heard == [signal.SIGINT]


def test_a_second_one_is_delivered_at_once_but_a_second_hangup_is_not(heard):
    with HeldSignals():
        signal.raise_signal(signal.SIGHUP)
        signal.raise_signal(signal.SIGHUP)
        assert heard == []
        signal.raise_signal(signal.SIGINT)
        assert heard == [signal.SIGHUP]


def test_what_is_ignored_stays_ignored(heard):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)    # as under nohup
    with HeldSignals() as held:
        signal.raise_signal(signal.SIGHUP)
        assert held.arrived is None
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_in_another_thread_nothing_is_held(heard):
    before, seen = signal.getsignal(signal.SIGINT), []

    def work():
        with HeldSignals():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]
