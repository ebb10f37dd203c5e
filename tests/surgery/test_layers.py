import pytest
import torch
from torch import nn

from batchnorm import BatchNorm1d, stats
from batchnorm.surgery.layers import FROZEN, FROZEN_KIND, NO_STATISTICS, NOT_NAMED, ROWS, choose_layers


def model():
    return nn.ModuleDict(
        {
            "body": nn.Sequential(nn.BatchNorm1d(2), BatchNorm1d(2), nn.SyncBatchNorm(2)),
            "bodyguard": nn.BatchNorm2d(2),
            "free": nn.BatchNorm1d(2, track_running_stats=False),
            "other": nn.InstanceNorm1d(2, track_running_stats=True),
        }
    )


def test_all_layers_with_running_statistics_are_chosen():
    choice = choose_layers(model())
    assert list(choice.layers) == ["body.0", "body.1", "body.2", "bodyguard"]
    assert choice.untouched == {"free": NO_STATISTICS}


def test_a_layer_whose_flag_is_off_is_left_alone_though_it_has_buffers():
    net = model()
    net["bodyguard"].track_running_stats = False
    assert choose_layers(net).untouched == {"free": NO_STATISTICS, "bodyguard": NO_STATISTICS}


def test_a_layer_in_prediction_mode_is_frozen_only_while_the_model_trains():
    net = model()
    net["body"][1].eval()
    assert choose_layers(net).untouched == {"body.1": FROZEN, "free": NO_STATISTICS}
    assert "body.1" in choose_layers(net.eval()).layers


def test_frozen_statistics_and_rows_of_them_are_left_alone():
    net = nn.ModuleList(
        [BatchNorm1d(2, stats=stats.Frozen()), BatchNorm1d(2, stats=stats.Domains(3)), BatchNorm1d(2)]
    )
    assert choose_layers(net.eval()).untouched == {"0": FROZEN_KIND, "1": ROWS}
    assert list(choose_layers(net, ["0"]).layers) == ["0"]


def test_a_layer_without_gradients_is_not_frozen():
    assert "bodyguard" in choose_layers(model().requires_grad_(False)).layers


def test_names_choose_layers_and_all_within_modules_frozen_ones_too():
    net = model()
    net["body"][1].eval()
    choice = choose_layers(net, ["body"])
    assert list(choice.layers) == ["body.0", "body.1", "body.2"]
    assert choice.untouched == {"bodyguard": NOT_NAMED, "free": NO_STATISTICS}
    assert list(choose_layers(net, ["body.2", "bodyguard"]).layers) == ["body.2", "bodyguard"]
    assert list(choose_layers(net, "bodyguard").layers) == ["bodyguard"]


@pytest.mark.parametrize("name", ["bod", "body.3", "free", "other", ""])
def test_a_name_without_a_layer_is_refused(name):
    with pytest.raises(ValueError, match=f"recalibrate: layers expected names .* got {name!r}$"):
        choose_layers(model(), ["body", name])


def test_a_model_that_is_a_layer_has_the_empty_name():
    assert list(choose_layers(nn.BatchNorm1d(2)).layers) == [""]
    assert list(choose_layers(nn.BatchNorm1d(2), [""]).layers) == [""]


def test_a_lazy_model_is_refused_by_the_name_of_its_parameter():
    with pytest.raises(ValueError, match=r"model expected initialized parameters, got lazy 1\.weight"):
        choose_layers(nn.Sequential(nn.Linear(2, 2), nn.LazyBatchNorm1d()))
    lazy = nn.Sequential(nn.LazyBatchNorm1d())
    lazy(torch.randn(3, 2))
    assert list(choose_layers(lazy).layers) == ["0"]
