"""Every case is found; at first sight in nine of ten; all traps are passed in silence."""

import pytest

from tests.doctor.cases.case import all_cases, score

OUTCOMES = {}

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")


@pytest.mark.parametrize("one", all_cases(), ids=lambda one: one.name)
def test_a_case_is_found_and_a_trap_is_not(one):
    OUTCOMES[one.name] = outcome = score(one)
    assert outcome.is_found, outcome.codes


def test_nine_of_ten_causes_are_named_first():
    outcomes = [OUTCOMES.get(one.name) or score(one) for one in all_cases() if one.expected]
    later = [outcome.case.name for outcome in outcomes if not outcome.is_first]
    assert len(later) <= len(outcomes) / 10, later


def test_there_are_a_hundred_cases_and_no_two_of_one_name():
    names = [one.name for one in all_cases()]
    assert len(names) == len(set(names)) >= 100
