import collections

import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, fresh, rows, trained


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


class Subclass(nn.BatchNorm1d):
    """Of which nothing is known, so that its company is looked at."""

    def forward(self, x):
        return super().forward(x)


class WithLoss(nn.Module):
    """Returns a loss before its scores, as Transformers' networks do."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 3, bias=False), Subclass(3)

    def forward(self, values):
        scores = self.norm(self.linear(values))
        return {"loss": scores.square().mean(), "logits": scores}


def as_dicts(data):
    return [{"values": row} for row in data]


def test_fires_where_a_loss_stands_before_the_scores(whole):
    def evaluate(model, batch):
        return model.train()(**batch)

    whole(diagnose(WithLoss(), as_dicts(rows()), predict_fn=evaluate, rules=["BN032"]))


def test_is_silent_where_a_loss_stands_before_the_scores():
    assert diagnose(WithLoss(), as_dicts(rows()), rules=["BN032"]).findings == ()


Named = collections.namedtuple("Named", "x y")


def test_fires_on_named_tuples(whole):
    model = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, track_running_stats=False))
    data = [Named(row, torch.zeros(len(row))) for row in rows()]
    whole(diagnose(model, data, rules=["BN032"]))


class Graph(nn.Module):
    """Mixes its samples by a list of pairs that names them by number."""

    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(4, 3, bias=False), Subclass(3)

    def forward(self, x, edges):
        h = self.linear(x)
        return self.norm(h.index_add(0, edges[1], h[edges[0]]))


def test_is_silent_on_a_graph_whose_nodes_are_no_samples():
    generator = torch.Generator().manual_seed(0)
    data = [{"x": row, "edges": torch.randint(0, 32, (2, 60), generator=generator)} for row in rows()]
    assert diagnose(Graph(), data, rules=["BN032"]).findings == ()


def test_is_silent_where_the_outputs_are_none_of_samples():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(4, track_running_stats=False)

        def forward(self, x):
            return self.norm(x).mean(0, keepdim=True)

    assert diagnose(Pooled(), rows(), rules=["BN032"]).findings == ()
