"""MO, EP and VA: momentum, eps, and which variance."""

import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.cases.case import case, trap
from tests.doctor.cases.evaluation import forward
from tests.doctor.networks import batches, dense_net, fresh, rows, train, trained
from tests.doctor.rules.test_bn023 import Absolute, Maximum, Outside


def far(rows_):
    """N(5, 4)."""
    return [row * 2 + 5 for row in rows_]


@case("MO-01", "BN011")
def the_kept_weight_pasted_as_momentum():
    return diagnose(forward(dense_net(momentum=0.99), far(rows(16, 100))), far(rows(16)))


@case("MO-02", "BN011", "BN012")
def momentum_from_a_prototype_file():
    return diagnose(forward(dense_net(momentum=0.999), rows(16, 100)))


@trap("MO-01")
def the_same_momentum_with_many_values():
    data = rows(256)
    return diagnose(forward(dense_net(momentum=0.99), rows(256, 40, seed=2)), data)


@case("MO-04", "BN012")
def momentum_zero_meant_to_freeze():
    return diagnose(train(fresh(momentum=0.0), batches(), 1), batches(), ignore=["BN001"])


@trap("MO-04")
def momentum_none_is_the_mean_of_all_batches():
    return diagnose(forward(dense_net(momentum=None), rows(32, 60)), rows(32))


@case("MO-05", "BN011")
def the_papers_0_997():
    return diagnose(dense_net(momentum=0.997))


@case("MO-07", "BN009")
def cumulative_mode_for_exact_averages():
    return diagnose(trained(), averaging="update_bn")


def tiny(eps, var=1e-4):
    model = nn.Sequential(nn.BatchNorm1d(4, eps=eps), nn.Linear(4, 2)).eval()
    model[0].running_var.fill_(var)
    model[0].num_batches_tracked.fill_(1000)
    return model


@case("EP-01", "BN013")
def an_engine_rebuilt_with_the_default():
    return diagnose(tiny(1e-5), source_eps=1e-3)


@case("EP-02", "BN013")
def rebuilt_for_another_class_count():
    model = tiny(1e-3)
    rebuilt = tiny(1e-5)
    rebuilt.load_state_dict(model.state_dict())
    return diagnose(rebuilt, source_eps={"0": 1e-3}, checkpoint=model.state_dict())


@case("EP-03", "BN013")
def converted_from_keras():
    return diagnose(train(fresh(), [(x * 0.05, y) for x, y in batches()], 2), source_eps=1e-3)


@case("EP-04", "BN023")
def an_engine_with_eps_outside_the_root():
    return diagnose(nn.Sequential(Outside(4, eps=1e-5), nn.ReLU()))


@case("EP-06", "BN005", "BN013")
def a_variance_that_underflows_in_half():
    model = trained().half()
    return diagnose(model)


@case("EP-07", "BN002", "BN013")
def eps_subtracted_from_a_tiny_variance():
    state = trained().state_dict()
    state["1.running_var"][2] = 2e-6 - 1e-5
    return diagnose(state)


@case("EP-08", "BN013")
def a_tool_that_writes_a_fixed_eps():
    model = trained()
    for name in ("1", "4", "7"):
        model.get_submodule(name).eps = 1e-5
    return diagnose(model, source_eps=1e-2)


@case("EP-09", "BN013")
def eps_nearly_zero():
    return diagnose(tiny(1e-12, var=1.0))


@trap("EP-01")
def another_eps_where_variances_are_large():
    return diagnose(tiny(1e-3, var=1.0), source_eps=1e-5)


@trap("VA-02")
def momentum_one_and_the_same_batch():
    model = nn.Sequential(nn.BatchNorm1d(1, momentum=1.0), nn.Linear(1, 1))
    row = torch.tensor([[0.0], [2.0], [4.0], [6.0]] * 4)
    forward(model, [row])
    return diagnose(model, [row] * 20)


class Biased(nn.BatchNorm2d):
    """Stores the biased variance, as other frameworks do, and says so by a scale in prediction."""

    def forward(self, x):
        if self.training:
            return super().forward(x)
        scale = (self.running_var * 0.75 + self.eps).rsqrt() * self.weight
        return (x - self.running_mean.view(1, -1, 1, 1)) * scale.view(1, -1, 1, 1)


@case("VA-03", "BN023")
def fused_and_unfused_store_other_variances():
    return diagnose(nn.Sequential(Biased(4), nn.ReLU()))


@case("VA-04", "BN023")
def a_new_backend_with_its_own_maximum():
    return diagnose(nn.Sequential(Maximum(4, eps=1e-5), nn.ReLU()))


@case("VA-05", "BN009")
def averaged_variances_lost_the_spread_of_means():
    return diagnose(trained(), averaging="clients")


@case("CK-08", "BN023")
def a_layer_that_takes_the_size_of_gamma():
    return diagnose(nn.Sequential(Absolute(4), nn.ReLU()))
