"""FR and IN: what freezing means, initial values, decay, bias."""

import copy

import torch
from torch import nn
from torch.optim.swa_utils import update_bn

from batchnorm.doctor import diagnose
from tests.doctor.cases.case import case, trap
from tests.doctor.cases.evaluation import forward
from tests.doctor.networks import NORMS, batches, dense_net, fresh, norms, rows, train, trained


def freeze(model, grad=True, mode=True):
    for norm in norms(model):
        norm.requires_grad_(not grad)
        norm.train(not mode)
    return model


@case("FR-01", "BN033")
def frozen_parameters_and_drifting_predictions():
    return diagnose(freeze(trained(), mode=False), batches())


@case("FR-02", "BN033")
def train_at_each_epoch_undoes_eval():
    model = freeze(trained())
    model.train()
    return diagnose(model, batches())


@case("FR-04", "BN033")
def the_trainers_policy_put_it_back():
    model = nn.ModuleDict({"backbone": trained(), "head": nn.Linear(4, 2)})

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.parts = model

        def forward(self, x):
            return self.parts["head"](self.parts["backbone"](x))

    return diagnose(Net(), batches(), frozen=["parts.backbone"])


@case("FR-05", "BN015")
def the_flag_toggled_on_a_pretrained_network():
    model = trained()
    for norm in norms(model):
        norm.track_running_stats = False
    return diagnose(model, batches())


@case("FR-06", "BN034")
def norm_eval_in_a_training_from_scratch():
    model = freeze(fresh(), grad=False)
    train(model, batches(), 1)
    return diagnose(model, batches())


@case("FR-07", "BN033", "BN027")
def frozen_layers_that_still_use_the_batch():
    return diagnose(freeze(trained(), mode=False), batches(shift=1.0))


@trap("FR-09")
def a_frozen_body_whose_batch_norm_trains():
    model = trained()
    for name in ("0", "3", "6"):
        model.get_submodule(name).requires_grad_(False)
    return diagnose(model, batches())


@case("FR-10", "BN025", "BN041")
def two_images_on_a_device_with_a_pooled_branch():
    model = nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU()
    )
    return diagnose(model, [x for x, _ in batches(2)], ranks=8)


@trap("FR-11")
def half_inputs_into_frozen_float32_layers():
    model = freeze(trained().half())
    for norm in norms(model):
        norm.float()
    return diagnose(model)


@case("FR-12", "BN009")
def update_bn_takes_layers_out_of_their_freeze():
    model = freeze(trained(), grad=False)
    update_bn([x for x, _ in batches(shift=1.0)], copy.deepcopy(model))  # what follows
    return diagnose(model, averaging="update_bn")


@trap("FR-02")
def frozen_in_prediction_mode_and_kept_there():
    return diagnose(freeze(trained()), batches())


@case("IN-01", "BN018")
def decay_on_everything():
    model = trained()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, weight_decay=5e-4)
    return diagnose(model, optimizer=optimizer, steps=20000)


@case("IN-02", "BN016")
def a_bias_before_it():
    return diagnose(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 1)))


@trap("IN-02")
def a_bias_before_frozen_batch_norm():
    model = forward(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU()), rows(32, 60))
    model[1].eval()
    return diagnose(model)


@case("IN-03", "BN017")
def an_initializer_applied_to_every_module():
    torch.manual_seed(0)
    model = fresh()
    for module in model.modules():
        if getattr(module, "weight", None) is not None:
            nn.init.uniform_(module.weight, -0.1, 0.1)
    return diagnose(model)


@case("IN-04", "BN017")
def gamma_drawn_around_zero():
    torch.manual_seed(0)
    model = fresh()
    for norm in norms(model):
        nn.init.normal_(norm.weight, 0.0, 0.02)
    return diagnose(model)


@trap("IN-04")
def gamma_drawn_around_one():
    torch.manual_seed(0)
    model = fresh()
    for norm in norms(model):
        nn.init.normal_(norm.weight, 1.0, 0.02)
    return diagnose(model)


@case("IN-07", "BN001")
def update_operations_never_run():
    model = trained()
    for name in NORMS:
        model.get_submodule(name).reset_running_stats()
    return diagnose(model, batches())


@case("IN-08", "BN001", "BN007")
def functional_state_not_carried():
    model = fresh()
    model.load_state_dict(
        {k: v for k, v in trained().state_dict().items() if "running" not in k}, strict=False
    )
    for norm in norms(model):
        norm.num_batches_tracked.zero_()
    return diagnose(model.eval(), batches())


@case("IN-09", "BN021")
def linear_relu_dropout_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.BatchNorm1d(8), nn.Linear(8, 2))
    data = [row * 0.2 + 2 for row in rows(64)]
    return diagnose(forward(model, data * 3), data)


@trap("IN-09")
def batch_norm_then_dropout():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 2))
    return diagnose(forward(model, rows(64) * 3), rows(64))


@trap("FR-01")
def a_dense_network_in_good_health():
    return diagnose(forward(dense_net(), rows(32, 60)), rows(32))
