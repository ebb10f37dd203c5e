"""B1 and NF: one value per channel, and values that are not finite."""

import math

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchnorm import BatchNorm1d
from batchnorm.doctor import diagnose
from tests.doctor.cases.case import case, trap
from tests.doctor.cases.evaluation import forward
from tests.doctor.networks import batches, dense_net, fresh, rows, train, trained
from tests.doctor.rules.test_bn024 import ghosted


def loader(count, size, width=4, **options):
    data = TensorDataset(torch.randn(count, width, generator=torch.Generator().manual_seed(0)))
    return DataLoader(data, size, **options)


@case("B1-01", "BN024")
def thirty_three_rows_in_batches_of_sixteen():
    return diagnose(dense_net(), loader(33, 16))


@trap("B1-01")
def thirty_three_rows_with_drop_last():
    return diagnose(dense_net(), loader(33, 16, drop_last=True))


@case("B1-03", "BN024", "BN045")
def five_rows_on_four_replicas():
    return diagnose(dense_net(), loader(40, 5), replicas=4)


@case("B1-04", "BN024", "BN032")
def an_actor_asked_for_one_observation():
    return diagnose(dense_net(), rows(32), predict_fn=lambda model, batch: model(batch[:1]))


@case("B1-05", "BN007")
def batch_norm_replaced_by_identity_at_batch_size_one():
    source = trained()
    lean = nn.Sequential(*(nn.Identity() if isinstance(m, nn.BatchNorm2d) else m for m in source))
    model = fresh()
    model.load_state_dict(lean.state_dict(), strict=False)
    return diagnose(model, checkpoint=lean.state_dict())


@case("B1-06", "BN002", "BN024")
def a_traced_layer_called_on_one_row():
    layer = nn.BatchNorm1d(3)
    traced = torch.jit.trace(layer, torch.randn(4, 3), check_trace=False)
    traced(torch.randn(1, 3))
    return diagnose(dict(traced.state_dict()))


@case("B1-08", "BN024")
def a_hundred_and_one_rows_in_ghost_batches():
    return diagnose(ghosted(), loader(101, 101))


@case("B1-09", "BN024", "BN042")
def one_row_on_each_rank():
    return diagnose(nn.Sequential(nn.SyncBatchNorm(4), nn.Linear(4, 2)), rows(1), ranks=2)


@case("B1-11", "BN025")
def two_rows_leave_as_minus_and_plus_one():
    return diagnose(forward(dense_net(), rows(2, 60)), rows(2))


@case("NF-01", "BN002")
def a_step_skipped_by_the_loss_scaler():
    model = trained()
    x, y = batches()[0]
    x = x.clone()
    x[3] = math.inf
    loss = nn.functional.cross_entropy(model(x), y)
    assert not torch.isfinite(loss)  # the scaler skips the step; the statistics are gone
    return diagnose(model)


@case("NF-02", "BN002")
def one_inf_then_many_clean_batches():
    model = dense_net()
    broken = rows(32)[0].clone()
    broken[0, 0] = math.inf
    return diagnose(forward(model, [broken, *rows(32, 200)]), rows(32))


@case("NF-03", "BN002")
def a_negative_variance():
    model = trained()
    model[4].running_var -= model[4].running_var.min() + 0.5
    return diagnose(model.state_dict())


@trap("NF-04")
def anomaly_in_a_step_that_was_skipped():
    model = nn.Sequential(nn.Linear(4, 6, bias=False), BatchNorm1d(6, nonfinite="skip"), nn.Linear(6, 2))
    data = rows(32, 60)
    forward(model, data)
    forward(model, [torch.full((32, 4), 1e38) * 10])
    return diagnose(model, data[:20])


@case("NF-06", "BN031")
def inputs_of_1e30():
    return diagnose(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), [row * 1e30 for row in rows()])


@case("NF-07", "BN003")
def one_batch_a_thousand_times_as_large():
    model = forward(dense_net(), rows(32, 60))
    return diagnose(forward(model, [rows(32)[0] * 1e3, *rows(32, 10, seed=4)]), rows(32))


@case("NF-07", "BN003")
def one_image_of_64_a_hundred_times_as_bright():
    model = train(fresh(), batches(64, 10), 3)
    x = batches(64, 10)[0][0].clone()
    x[0] *= 100
    forward(model, [x])
    return diagnose(model, batches(64, 10))
