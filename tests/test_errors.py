"""Every error is a MosError, so that one `except` catches what this package raises, and none is raised without a place."""
import inspect

import pytest

from mos import errors

ERRORS = [c for _, c in inspect.getmembers(errors, inspect.isclass)]


@pytest.mark.parametrize("error", ERRORS, ids=lambda c: c.__name__)
def test_error_is_documented_and_ours(error):
    assert issubclass(error, errors.MosError)
    assert inspect.getdoc(error)
    assert str(error("say what to do")) == "say what to do"


def test_user_mistakes_are_told_from_damage():
    mistakes = {c for c in ERRORS if issubclass(c, errors.UsageError)}
    assert mistakes == {errors.UsageError, errors.FilterError, errors.ChainError}


def test_errors_of_a_run_name_the_packet():
    assert errors.CaptureError("cut short", packets=7).packets == 7
    assert errors.HandlerError("it raised", packet=3).packet == 3
