"""DT, SY, DD, MK, NU, TR: precision, several devices, axes, numerics and transforms."""

import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.cases.case import case, trap
from tests.doctor.cases.evaluation import forward
from tests.doctor.networks import dense_net, rows, trained
from tests.doctor.rules.test_bn019 import Inside
from tests.doctor.rules.test_bn023 import Activated
from tests.doctor.rules.test_bn029 import Recurrent, sequences


def synced(**options):
    return nn.Sequential(nn.SyncBatchNorm(4, **options), nn.Linear(4, 2))


@trap("DT-01")
def autocast_and_no_affine_parameters():
    return diagnose(nn.Sequential(nn.BatchNorm1d(4, affine=False), nn.Linear(4, 2)))


@case("DT-03", "BN005")
def a_bfloat16_model_whose_statistics_stand_still():
    return diagnose(trained().bfloat16())


@case("DT-04", "BN042", "BN005")
def synchronized_in_half_on_a_cpu():
    return diagnose(synced().half(), ranks=2)


class Own(nn.Module):
    """Like batch norm, but no subclass of it."""

    def __init__(self):
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(4))
        self.register_buffer("running_var", torch.ones(4))
        self.track_running_stats, self.eps = True, 1e-5

    def forward(self, x):
        return torch.relu((x - self.running_mean) / torch.sqrt(self.running_var))


@case("DT-05", "BN005", "BN023")
def an_unknown_class_cast_to_half():
    return diagnose(nn.Sequential(Own(), nn.Linear(4, 2)).half())


@case("SY-02", "BN042", "BN014")
def an_evaluation_that_waits_for_the_others():
    return diagnose(synced(track_running_stats=False).eval())


@trap("SY-07")
def synchronized_in_one_process():
    return diagnose(forward(synced(), rows(32, 60)), rows(32))


@case("SY-09", "BN042", "BN023")
def a_subclass_that_conversion_would_strip():
    return diagnose(nn.Sequential(Activated(4), nn.Conv2d(4, 2, 1)), ranks=2)


@trap("SY-10")
def frozen_layers_after_conversion():
    model = trained()
    for name in ("1", "4", "7"):
        model.get_submodule(name).eval()
    return diagnose(nn.SyncBatchNorm.convert_sync_batchnorm(model))


@case("SY-12", "BN042", "BN043")
def synchronized_inside_data_parallel():
    return diagnose(nn.DataParallel(synced()))


@case("SY-13", "BN041")
def few_values_on_each_device():
    return diagnose(dense_net(), rows(4), ranks=8)


@trap("SY-13")
def enough_values_on_each_device():
    return diagnose(dense_net(), rows(32), ranks=8)


@case("SY-14", "BN019", "BN042")
def converted_after_the_optimizer():
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for name in ("1", "4", "7"):
        old = model.get_submodule(name)
        model[int(name)] = nn.BatchNorm2d(old.num_features)
    return diagnose(model, optimizer=optimizer)


@case("DD-02", "BN043")
def data_parallel_replicas():
    return diagnose(nn.DataParallel(trained()))


def padded():
    generator = torch.Generator().manual_seed(0)
    lengths = torch.tensor([4, 1, 3, 2])
    x = torch.randn(4, 4, 4, generator=generator) + 3
    return [(x * (torch.arange(4) < lengths.view(-1, 1)).unsqueeze(1), lengths)] * 8


@case("MK-01", "BN028")
def padded_positions_in_the_moments():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Tanh())
    return diagnose(model, padded(), lengths_fn=lambda batch: batch[1])


@case("MK-06", "BN028")
def graphs_of_unequal_size():
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Conv1d(4, 4, 1), nn.ReLU())
    return diagnose(model, padded(), lengths_fn=lambda batch: batch[1])


@case("MK-03", "BN029")
def features_on_the_last_axis():
    return diagnose(Recurrent(False), sequences())


@case("MK-04", "BN029")
def rank_decides_the_meaning():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.Tanh())
    return diagnose(model, [torch.randn(16, 8, 8) for _ in range(8)])


@trap("MK-03")
def features_turned_to_the_second_axis():
    return diagnose(Recurrent(True), sequences())


@case("CK-10", "BN029")
def another_number_of_channels_than_declared():
    model = nn.Sequential(nn.BatchNorm1d(8, affine=False, track_running_stats=False), nn.Tanh())
    return diagnose(model, rows())


@case("MK-05", "BN019")
def a_layer_made_inside_the_forward():
    return diagnose(Inside(), rows())


@case("NU-01", "BN031")
def a_mean_of_1e5_standard_deviations():
    return diagnose(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), [row * 0.1 + 1e4 for row in rows()])


@case("NU-02", "BN031")
def a_constant_channel_of_7e9():
    return diagnose(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), [torch.full((32, 4), 7.3e9)] * 8)


@case("NU-03", "BN031")
def inputs_beyond_1e19():
    return diagnose(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), [row * 1e20 for row in rows()])


@case("TR-01", "BN036", "BN040")
def per_sample_gradients():
    return diagnose(trained(), transform="vmap")


@case("TR-02", "BN036")
def a_full_graph_compile_with_momentum_none():
    return diagnose(dense_net(momentum=None), transform="fullgraph")


@trap("TR-01")
def vmap_over_prediction_mode():
    return diagnose(trained().eval(), transform="vmap")


@trap("TR-03")
def a_sleeping_channel_in_prediction():
    asleep = [row * torch.tensor([1.0, 1.0, 0.0, 1.0]) for row in rows()]
    return diagnose(forward(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), asleep * 5), asleep)
