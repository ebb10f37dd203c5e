"""What studies read from results that are made up: no verdict by construction."""

import math

import pytest

from batchnorm.records import TrialRecord
from batchnorm.study import Plan, choose_studies
from batchnorm.study.verdict import judge

PLAN = Plan("quick", (0, 1, 2), "embedded-sample")


def verdict(name, result, failed=lambda settings, seed: False):
    """A study's verdict if each trial of these settings had this result."""
    (study,) = choose_studies([name])
    rows = []
    for trial in study.trials(PLAN):
        settings = dict(trial.settings)
        lost = failed(settings, trial.seed)
        rows.append(
            TrialRecord(
                key=trial.key,
                function=trial.name,
                settings=settings,
                seed=trial.seed,
                status="failed" if lost else "done",
                result={} if lost else result(settings, trial.seed),
                error="asked to fail" if lost else "",
                seconds=1.0,
                cpu_seconds=1.0,
            )
        )
    return judge(study, PLAN, rows, {})


def effect(record, name):
    (found,) = (each for each in record.effects if each.name == name)
    return found


def curve(steps, accuracy):
    """A training that is tested once, after so many steps."""
    return {"curve": {"steps": [steps], "seconds": [steps / 100], "accuracy": [accuracy]}}


def test_a_training_that_lost_its_loss_is_not_the_fastest():
    def result(settings, seed):
        if settings["norm"] == "none" and settings["lr"] == 0.6:
            return curve(20, 0.1)  # lost in the first steps
        return curve(100 if settings["norm"] == "batch" else 150 + seed, 0.9)

    record = verdict("c01", result)
    assert effect(record, "steps to 80 %").values == (1.5, 1.51, 1.52)
    assert effect(record, "seconds to 85 %").values == pytest.approx((1.5, 1.51, 1.52))
    lost = [row for row in record.figures[0].rows if row["series"] == "none" and row["x"] == 0.6]
    assert lost[0]["mean"] == 300


def test_each_accuracy_has_a_best_rate_of_its_own():
    def result(settings, seed):
        quick = settings["lr"] == 0.6  # fast to 80 %, never at 85 %
        return curve(40, 0.82) if quick else curve(200 + seed, 0.86)

    record = verdict("c01", result)
    assert "With ReLU, at learning rate 0.6 (the largest tried), arm none reached 80% on 3 of 3 seeds." in (
        record.notes
    )
    assert (
        "With ReLU, at learning rate 0.04 (the smallest tried), arm batch reached 85% on 3 of 3 seeds."
        in (record.notes)
    )


def test_two_trainings_that_were_both_cut_off_have_no_ratio():
    record = verdict("c01", lambda settings, seed: curve(300, 0.5 + settings["lr"] / 10))
    assert record.verdict == "not measured"
    assert record.notes[-1] == (
        "With ReLU, at learning rate 0.6 (the largest tried), arm batch reached 85% on 0 of 3 seeds."
    )


@pytest.mark.parametrize(("slow", "bound"), [("none", "at least"), ("batch", "at most")])
def test_a_ratio_to_a_training_that_was_cut_off_is_a_bound(slow, bound):
    record = verdict("c01", lambda settings, seed: curve(300, 0.8 if settings["norm"] == slow else 0.85))
    assert effect(record, "steps to 80 %").method == "t of logarithms"
    assert effect(record, "steps to 85 %").method == f"t of logarithms, {bound}"


def test_a_rate_whose_trial_failed_is_not_one_that_does_not_train():
    def accuracy(settings, seed):
        return {"accuracy": 0.8 if settings["lr"] < 1 else 0.1}

    def failed(settings, seed):
        return seed == 2 and settings["norm"] == "none" and settings["lr"] > 0.1

    assert effect(verdict("c02", accuracy), "largest rate").values == (1.0, 1.0, 1.0)
    assert effect(verdict("c02", accuracy, failed), "largest rate").values == (1.0, 1.0)


def test_a_largest_rate_at_the_end_of_the_grid_is_told():
    record = verdict("c02", lambda settings, seed: {"accuracy": 0.8 if settings["norm"] == "batch" else 0.1})
    assert "Arm batch trains on 3 of 3 seeds, up to learning rate 25 (the largest tried)." in record.notes
    assert "Arm batch does best at learning rate 0.006554 (the smallest tried)." in record.notes
    assert effect(record, "largest rate").values == ()  # there is none without


def test_seeds_are_those_of_the_trials():
    record = verdict("c07", lambda settings, seed: {}, failed=lambda settings, seed: True)
    assert record.seeds == (0,)
    assert math.isnan(record.effects[0].mean)


def test_a_network_that_guesses_at_every_rate_has_no_best_one():
    def result(settings, seed):
        trains = settings["depth"] < 56 or (settings["norm"] == "batch" and settings["shortcuts"])
        return {"accuracy": 0.7 if trains else 0.1 + settings["lr"] / 10, "spread": [[1.0, 2.0]] * 2}

    notes = verdict("c04", result).notes
    assert notes[0] == (
        "The plain network's best learning rate, of 0.005, 0.03: 0.005 with 8 layers, 0.005 with 20 layers, "
        "none with 56 layers, none with 110 layers."
    )
    assert "none" not in notes[-1]


def test_one_process_is_one():
    arm = {"seconds": 1.0, "calls": 8, "bytes": 100}
    record = verdict(
        "c12", lambda settings, seed: {"gradients": 1000, "none": arm, "local": arm, "synced": arm}
    )
    assert "With 1 process a step with local takes 1.00 times none's." in record.notes
    assert "With 2 processes a step with local takes 1.00 times none's." in record.notes
