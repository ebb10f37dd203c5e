"""EM and CK: averaged and edited weights; checkpoints and state."""

import collections
import copy

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from batchnorm import recalibrate
from batchnorm.doctor import diagnose
from tests.doctor.cases.case import case, trap
from tests.doctor.cases.evaluation import forward
from tests.doctor.networks import batches, dense_net, norms, rows, trained


def moved(model, by=0.3, seed=0):
    """Weights after more training, of which the statistics know nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += by * torch.randn(parameter.shape, generator=generator)
    return model


@case("EM-02", "BN008")
def an_ema_generator_with_stale_buffers():
    return diagnose(moved(trained()), batches())


@case("EM-03", "BN006", "BN009")
def the_counter_left_at_one_by_the_average():
    model = trained()
    for norm in norms(model):
        norm.num_batches_tracked.fill_(1)
        norm.momentum = None
    return diagnose(model, averaged_from=moved(trained()))


class Distilled(nn.Module):
    def __init__(self, mode):
        super().__init__()
        self.student, self.teacher = trained(0), trained(1)
        self.teacher.train(mode)

    def forward(self, x):
        with torch.no_grad():
            target = self.teacher(x)
        return (self.student(x) - target).square()


@case("EM-04", "BN035")
def a_teacher_in_training_mode():
    return diagnose(Distilled(True), batches(seed=10))


@trap("AP-12")
def a_teacher_in_prediction_mode():
    return diagnose(Distilled(False), batches(seed=10))


@trap("EM-05")
def a_key_encoder_whose_statistics_nobody_reads():
    class Encoder(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.out = nn.BatchNorm1d(4, track_running_stats=True), nn.Linear(4, 2)

        def forward(self, x):
            return self.out(self.norm(x))

    return diagnose(forward(Encoder(), rows(64, 60)), rows(64))


@case("EM-07", "BN008")
def two_merged_networks():
    one, other = trained(0), trained(2).state_dict()
    one.load_state_dict(
        {k: (v + other[k]) / 2 if v.is_floating_point() else v for k, v in one.state_dict().items()}
    )
    return diagnose(one, batches())


@case("EM-08", "BN012", "BN008")
def statistics_from_too_few_batches():
    model = trained()
    for norm in norms(model):
        norm.reset_running_stats()
        norm.momentum = 0.01
    forward(model, [x for x, _ in batches(32, 10)])
    return diagnose(model, batches())


@case("EM-09", "BN009", "BN008")
def an_averaged_model_without_its_buffers():
    live = trained()
    average = AveragedModel(live)
    for seed in range(3):
        average.update_parameters(moved(live, seed=seed))
    return diagnose(average, batches())


@case("EM-09", "BN008", "BN009")
def the_same_without_data():
    live = trained()
    average = AveragedModel(live)
    for seed in range(3):
        average.update_parameters(moved(live, seed=seed))
    return diagnose(average.module, averaged_from=live)


@case("EM-10", "BN009")
def update_bn_and_uneven_batches():
    return diagnose(trained(), averaging="update_bn")


@case("EM-12", "BN008")
def a_pruned_network():
    model = trained()
    with torch.no_grad():
        for name in ("0", "3", "6"):
            weight = model.get_submodule(name).weight
            weight[:, ::2] *= 0.0 if weight.shape[1] > 1 else 0.5
    return diagnose(model, batches())


@trap("EM-02")
def an_average_followed_by_a_recalibration():
    model = moved(trained())
    recalibrate(model, batches())
    return diagnose(model, batches())


@case("CK-01", "BN006")
def an_old_checkpoint_without_counters():
    return diagnose({k: v for k, v in trained().state_dict().items() if "num_batches" not in k})


@case("CK-02", "BN006", "BN012")
def a_resumed_run_whose_counter_was_lost():
    model = forward(dense_net(momentum=None), [row + 5 for row in rows(16, 100)])
    state = {k: v for k, v in model.state_dict().items() if "num_batches" not in k}
    resumed = dense_net(momentum=None)
    resumed.load_state_dict(state, strict=False)
    return diagnose(resumed)


@trap("CK-03")
def an_empty_dict_loaded():
    model = trained()
    model.load_state_dict(collections.OrderedDict(), strict=False)
    return diagnose(model)


@case("CK-05", "BN007")
def keys_under_another_name():
    source = {f"backbone.{key}": value for key, value in trained().state_dict().items()}
    model = trained(seed=1)
    model.load_state_dict(source, strict=False)
    return diagnose(model, checkpoint=source)


@trap("CK-05")
def keys_under_a_wrappers_prefix():
    return diagnose(trained(), checkpoint={f"module.{k}": v for k, v in trained().state_dict().items()})


@case("CK-06", "BN010")
def the_best_epoch_is_the_last():
    model = trained()
    best = model.state_dict()
    forward(model, [x for x, _ in batches(32, 3)])
    return diagnose(model, snapshot=best)


@trap("CK-06")
def a_copied_snapshot():
    model = trained()
    return diagnose(model, snapshot=copy.deepcopy(model.state_dict()))


@case("CK-07", "BN007", "BN046")
def a_folded_file_in_an_unfolded_model():
    model = trained()
    folded = {k: v for k, v in model.state_dict().items() if k.split(".")[0] not in ("1", "4", "7")}
    folded |= {f"{name}.bias": torch.zeros(8) for name in ("0", "3", "6")}
    return diagnose(model, checkpoint=folded)
