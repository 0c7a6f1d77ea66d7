"""Old names work for one release, and say the new one where they are used."""

import inspect
from dataclasses import dataclass, fields, replace

import pytest

from helpers._deprecated import renamed, renamed_attribute


@renamed(rate="learning_rate", tolerance="tol")
def train(data, *, learning_rate=0.1, tol=None):
    """Train."""
    return data, learning_rate, tol


@renamed(rate="learning_rate")
@dataclass(frozen=True)
class Schedule:
    n_steps: int
    learning_rate: float = 0.1
    rate = renamed_attribute("learning_rate")


def test_an_old_argument_works_and_the_warning_points_at_the_caller():
    with pytest.warns(DeprecationWarning, match="train: rate is now learning_rate") as caught:
        assert train(1, rate=0.5) == (1, 0.5, None)
    assert caught[0].filename == __file__


def test_two_old_arguments_give_two_warnings():
    with pytest.warns(DeprecationWarning) as caught:
        assert train(1, rate=0.5, tolerance=2) == (1, 0.5, 2)
    assert len(caught) == 2


def test_the_new_argument_is_silent(recwarn):
    assert train(1, learning_rate=0.5) == (1, 0.5, None)
    assert Schedule(3, learning_rate=0.5).learning_rate == 0.5
    assert not recwarn.list


def test_both_names_together_are_refused():
    with pytest.raises(TypeError, match="give learning_rate alone"):
        train(1, rate=0.5, learning_rate=0.5)


def test_signature_and_docstring_are_those_of_the_function():
    assert list(inspect.signature(train).parameters) == ["data", "learning_rate", "tol"]
    assert train.__doc__ == "Train."


def test_a_dataclass_takes_and_gives_the_old_name():
    with pytest.warns(DeprecationWarning, match="Schedule: rate is now learning_rate") as caught:
        schedule = Schedule(3, rate=0.5)
    assert caught[0].filename == __file__
    with pytest.warns(DeprecationWarning, match="Schedule: rate is now learning_rate") as caught:
        assert schedule.rate == 0.5
    assert caught[0].filename == __file__
    assert [field.name for field in fields(Schedule)] == ["n_steps", "learning_rate"]
    assert replace(schedule, n_steps=4) == Schedule(4, learning_rate=0.5)


def test_an_old_attribute_cannot_be_set():
    class Fits:
        crlb = renamed_attribute("crlb_std")

    with pytest.raises(AttributeError, match="crlb is now crlb_std"):
        Fits().crlb = 1


@pytest.mark.parametrize("names", [{"rate": "nothing"}, {"tol": "rate"}])
def test_a_renaming_that_cannot_be_is_found_at_import(names):
    with pytest.raises(TypeError, match="has "):
        renamed(**names)(lambda rate, tol: None)
