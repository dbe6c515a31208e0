import os
import signal

import pytest

from radvqa.run.stopping import Stopped, asked_to_stop, held, stoppable


def ask() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def test_sigterm_stops_at_once_with_exit_code_zero() -> None:
    with pytest.raises(Stopped) as caught, stoppable():
        ask()
        pytest.fail("it goes on")
    assert caught.value.code == 0
    assert not asked_to_stop()


def test_held_code_says_itself_where_it_stops() -> None:
    done = []
    with pytest.raises(Stopped), stoppable(), held():
        ask()
        done.append(asked_to_stop())
        raise Stopped
    assert done == [True]


def test_what_came_too_late_for_held_code_stops_at_its_end() -> None:
    done = []
    with pytest.raises(Stopped), stoppable():
        with held():
            with held():
                ask()
            done.append("outer")
        pytest.fail("it goes on")
    assert done == ["outer"]


def test_outside_nothing_is_changed() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with stoppable():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before
