"""TE and SH: good in training, bad in evaluation; results that depend on how batches are composed."""

import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.cases.case import case
from tests.doctor.networks import batches, by_class, dense_net, fresh, rows, train, trained


def forward(model, data):
    with torch.no_grad():
        for batch in data:
            model(batch)
    return model


def predict(model, batch):
    return model(batch[0])


@case("TE-01", "BN026")
def windows_of_one_recording_a_batch():
    data = [row + (0 if number % 2 else 10) for number, row in enumerate(rows(64))]
    return diagnose(forward(dense_net(), data), data)


@case("TE-02", "BN027", "BN008")
def variance_that_grows_at_every_step():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    data = rows(64, number=40)
    with torch.no_grad():
        for step, row in enumerate(data):
            model(row * 1.15**step)
    return diagnose(model, [row * 1.15**40 for row in rows(64, seed=1)])


@case("TE-04", "BN032")
def eval_never_called():
    return diagnose(trained(), batches(8), predict_fn=predict)


@case("TE-05", "BN032")
def accuracy_depends_on_the_test_batch():
    return diagnose(trained(), batches(128, 10), predict_fn=predict)


@case("TE-06", "BN025", "BN032")
def batch_of_one_and_evaluation_in_train_mode():
    generator = torch.Generator().manual_seed(0)
    data = [
        (torch.randn(1, 1, 1, 1, generator=generator) * 5).expand(1, 4, 4, 4)
        + torch.randn(1, 4, 4, 4, generator=generator)
        for _ in range(20)
    ]
    model = forward(nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)), data * 3)
    return diagnose(model, data)


@case("TE-07", "BN015", "BN014")
def one_flag_off_in_a_built_layer():
    model = trained()
    model[7].track_running_stats = False
    return diagnose(model.eval())


@case("TE-09", "BN012")
def five_updates_of_the_slow_convention():
    model = dense_net(momentum=0.01)
    return diagnose(forward(model, [row * 2 + 5 for row in rows(16, 5)]), [row * 2 + 5 for row in rows(64)])


@case("TE-10", "BN008")
def averaged_weights_with_the_last_ones_statistics():
    one, other = trained(0), trained(1)
    with torch.no_grad():
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            mine.lerp_(theirs, 0.5)
    return diagnose(one, batches())


@case("TE-11", "BN032")
def a_forward_without_gradients_between_two_evaluations():
    def evaluate(model):
        with torch.no_grad():
            model(torch.full((8, 1, 8, 8), 5.0))

    return diagnose(trained(), batches(), evaluate_fn=evaluate)


@case("TE-12", "BN032")
def train_mode_to_obtain_a_validation_loss():
    def evaluate(model):
        model.eval()
        model.train()  # the detector returns losses in this mode only
        with torch.no_grad():
            for x, _ in batches(16, 20, shift=9.0):
                model(x)

    return diagnose(trained().eval(), batches(), evaluate_fn=evaluate)


@case("TE-14", "BN014", "BN032")
def a_row_beside_another_row():
    model = nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2)).eval()
    return diagnose(model, rows(2))


@case("SH-01", "BN026")
def one_class_a_batch():
    return diagnose(train(fresh(), by_class(), 3), by_class())


@case("SH-02", "BN032")
def shuffling_the_test_set_changes_the_score():
    def rescore(model, batch):
        model.train()
        return model(batch[0][:8])

    return diagnose(trained().eval(), [(x[:8], y[:8]) for x, y in batches(16)], predict_fn=rescore)
