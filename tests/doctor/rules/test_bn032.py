import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, fresh, trained


def predict(model, batch):
    return model(batch[0])


def test_fires_on_evaluation_in_training_mode(whole):
    report = diagnose(trained(), batches(8), predict_fn=predict)
    assert report.codes == ("BN032",)
    whole(report)


@pytest.mark.parametrize("size", [8, 128])
def test_fires_whatever_the_batch_size(size):
    report = diagnose(trained(), batches(size, 10), predict_fn=predict)
    assert report.codes == ("BN032",)


def test_fires_on_evaluation_that_moves_statistics(whole):
    def evaluate(model):
        with torch.no_grad():
            for x, _ in batches(8, 3):
                model(x)

    report = diagnose(trained(), batches(), evaluate_fn=evaluate)
    assert [(f.code, f.layer) for f in report.findings] == [("BN032", n) for n in ("1", "4", "7")]
    whole(report)


def test_fires_where_eval_does_not_reach_a_layer(whole):
    class Stubborn(nn.BatchNorm2d):
        def train(self, mode=True):
            return super().train(True)

    model = fresh(Stubborn)
    model(batches()[0][0])
    whole(diagnose(model.eval(), batches(), rules=["BN032"]))


def test_is_silent_in_prediction_mode():
    assert diagnose(trained().eval(), batches(8), predict_fn=predict).findings == ()


def with_dropout():
    return nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))


def evaluated(model):
    data = [x.flatten(1) for x, _ in batches(8)]
    return diagnose(model, data, predict_fn=lambda model, x: model(x), rules=["BN032"])


def test_fires_on_training_mode_beside_dropout(whole):
    whole(evaluated(with_dropout()))


def test_is_silent_about_dropout_left_on():
    model = with_dropout()
    model[1].eval()
    assert evaluated(model).findings == ()


def test_is_silent_where_evaluation_sets_its_mode():
    def evaluate(model):
        model.eval()
        model(batches(8, 1)[0][0])

    assert diagnose(trained(), batches(8), evaluate_fn=evaluate).findings == ()
