"""FO and EX: folding, export, and layers that only look like batch norm."""

import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.cases.case import case, trap
from tests.doctor.networks import batches, trained
from tests.doctor.rules.test_bn023 import Activated, Biased, Renormalized
from tests.doctor.rules.test_bn046 import Pair
from tests.doctor.rules.test_bn048 import onnx_model

X = batches(4, 1)[0][0]


def fold(model, **options):
    return diagnose(model.eval(), goal="fold", **options)


@case("FO-01", "BN046")
def a_grouped_transposed_convolution():
    return fold(Pair("grouped transposed"))


@case("FO-02", "BN046")
def a_convolution_that_others_use():
    return fold(Pair("shared convolution"))


@case("FO-02", "BN046")
def a_pair_called_twice():
    return fold(Pair("pair twice"))


@trap("FO-03")
def a_convolution_without_bias():
    return fold(nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()))


@case("FO-06", "BN004", "BN047")
def a_published_channel_of_variance_1e_14():
    model = trained()
    model[4].running_var[2] = 1.9e-14
    return diagnose(model.state_dict())


@trap("FO-07")
def a_difference_of_4e_6():
    return fold(trained())


@case("FO-08", "BN046")
def an_addition_in_between():
    return fold(Pair("addition"))


@case("FO-10", "BN023")
def an_in_place_activated_layer():
    return diagnose(nn.Sequential(Activated(4), nn.Conv2d(4, 2, 1)))


@case("FO-11", "BN047", "BN029")
def a_linear_layer_on_three_dimensions():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5), nn.ReLU())
    return fold(model, loader=[torch.randn(16, 5, 5) for _ in range(8)])


@case("FO-12", "BN047", "BN005")
def a_fold_in_bfloat16():
    return fold(trained().bfloat16())


@case("EX-01", "BN014", "BN048")
def an_export_without_statistics():
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    return diagnose(model.eval(), goal="export")


@case("EX-03", "BN048")
def an_onnx_graph_in_training_mode():
    return diagnose(onnx_model(training=True))


@case("EX-05", "BN048")
def a_program_that_kept_its_training_mode():
    return diagnose(torch.export.export(trained(), (X,)))


@trap("EX-05")
def a_program_exported_in_prediction_mode():
    return diagnose(torch.export.export(trained().eval(), (X,)))


@case("EX-04", "BN048")
def a_trace_in_training_mode():
    return diagnose(torch.jit.trace(trained(), X, check_trace=False))


@case("EX-08", "BN049")
def a_variance_beyond_half():
    model = trained()
    model[4].running_var[1] = 1e5
    return diagnose(model.eval(), target_dtype=torch.float16, goal="export")


@trap("EX-08")
def a_bfloat16_engine():
    return diagnose(trained().eval(), target_dtype=torch.bfloat16, goal="export")


class Factor(nn.BatchNorm2d):
    """Divides its statistics by a stored factor, as an old file format does."""

    def forward(self, x):
        var = self.running_var / 4
        mean = self.running_mean / 4
        scale = (self.weight * (var + self.eps).rsqrt()).view(1, -1, 1, 1)
        return (x - mean.view(1, -1, 1, 1)) * scale + self.bias.view(1, -1, 1, 1)


@case("EX-10", "BN023")
def moments_to_be_divided_by_a_scale_factor():
    return diagnose(nn.Sequential(Factor(4), nn.ReLU()))


@case("IN-06", "BN023")
def a_format_that_fixes_gamma_at_one():
    class Fixed(nn.BatchNorm2d):
        def forward(self, x):
            return nn.functional.batch_norm(
                x, self.running_mean, self.running_var, torch.ones_like(self.weight), self.bias, self.training
            )

    return diagnose(nn.Sequential(Fixed(4), nn.ReLU()))


class Dense(nn.Module):
    """A convolution, a concatenation, then batch norm: no pair to fold."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(5)

    def forward(self, x):
        return self.norm(torch.cat([self.conv(x), x], 1)).relu()


@case("EX-06", "BN046", "BN048")
def a_live_layer_in_quantization_aware_training():
    return diagnose(Dense(), goal="fold")


@case("FO-05", "BN027", "BN008")
def a_scale_folded_in_twice():
    """The layer was kept when its scale went into the convolution, so it is applied again."""
    model = trained()
    with torch.no_grad():
        model[3].weight *= 3
    return diagnose(model, batches())


@case("MO-06", "BN048")
def a_cumulative_mean_before_an_export():
    return diagnose(nn.Sequential(nn.BatchNorm2d(4, momentum=None), nn.ReLU()), goal="export")


@case("VA-07", "BN023")
def a_port_that_stores_the_biased_variance():
    return diagnose(nn.Sequential(Biased(4), nn.Conv2d(4, 2, 1)))


@case("VA-08", "BN023")
def a_renormalization_of_another_implementation():
    return diagnose(nn.Sequential(Renormalized(4), nn.Conv2d(4, 2, 1)))
