"""What all studies keep to: words before trials, effects for their conditions, whatever trials fail."""

import dataclasses
import pickle

import pytest

from batchnorm.study import Plan, all_studies, choose_studies, estimated_seconds
from batchnorm.study.results import Results
from batchnorm.study.verdict import judge

STUDIES = all_studies()
PLANS = [
    Plan("quick", (0, 1, 2), "embedded-sample"),
    Plan("full", (0, 1), "fashion-mnist"),
    Plan("full", (0, 1), "embedded-sample"),
]


def test_there_are_fourteen():
    assert [study.id for study in STUDIES] == [f"c{number:02}" for number in range(1, 15)]
    assert len({study.name for study in STUDIES}) == 14


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.title)
def test_a_study_says_everything_first(study):
    for field in dataclasses.fields(study):
        value = getattr(study, field.name)
        if isinstance(value, str):
            assert value.strip() == value != ""
    assert len({condition.name for condition in study.conditions}) == len(study.conditions) >= 2


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.profile}-{plan.data}")
@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.title)
def test_trials_are_different_known_by_their_keys_and_travel(study, plan):
    trials = study.trials(plan)
    assert len({trial.key for trial in trials}) == len(trials) == len(set(trials))
    assert pickle.loads(pickle.dumps(trials)) == list(trials)
    for trial in trials:
        assert dict(trial.settings).get("data", plan.data) == plan.data


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.title)
def test_effects_are_those_of_the_conditions_even_without_a_result(study):
    reading = study.read(Results(()), PLANS[0])
    assert set(reading.effects) == {condition.name for condition in study.conditions}
    assert judge(study, PLANS[0], [], {}).verdict == "not measured"


def test_studies_are_chosen_by_any_of_their_names_in_order():
    chosen = choose_studies(["prediction", "C05", "c01-convergence", "c05"])
    assert [study.id for study in chosen] == ["c01", "c05", "c06"]
    assert choose_studies([]) == choose_studies(["all"]) == STUDIES


def test_costs_add_up_and_are_shared_by_the_jobs():
    trials = choose_studies(["c02"])[0].trials(PLANS[0])
    alone = estimated_seconds(trials, 1000, 1)
    assert alone == pytest.approx(sum(trial.cost for trial in trials) / 1000)
    assert estimated_seconds(trials, 1000, 2) == pytest.approx(alone / 2)
