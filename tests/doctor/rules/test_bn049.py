import pytest
import torch
from torch import nn

from batchnorm.doctor import diagnose


def layer(mean=0.0, var=1.0, weight=1.0):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    model[0].running_mean[1], model[0].running_var[1] = mean, var
    nn.init.constant_(model[0].weight, weight)
    return model


@pytest.mark.parametrize(("mean", "var", "weight"), [(0, 1e5, 1), (0, 1e-8, 1), (1e5, 1, 1), (0, 1, 1e5)])
def test_fires_outside_of_halfs_range(mean, var, weight, whole):
    report = diagnose(layer(mean, var, weight), target_dtype=torch.float16, rules=["BN049"])
    assert report.codes == ("BN049",)
    whole(report)


def test_is_silent_for_a_bfloat16_target():
    assert "BN049" not in diagnose(layer(var=1e5), target_dtype=torch.bfloat16).codes


def test_is_silent_inside_the_range():
    assert diagnose(layer(1.0, 60000.0), target_dtype=torch.float16, rules=["BN049"]).findings == ()


def test_fires_on_a_checkpoint_and_is_silent_on_a_layer_without_statistics():
    layer = nn.BatchNorm1d(2)
    layer.running_var[0] = 1e5
    assert diagnose(layer.state_dict(), target_dtype=torch.float16, rules=["BN049"]).codes == ("BN049",)
    bare = nn.Sequential(nn.BatchNorm1d(2, track_running_stats=False), nn.ReLU())
    assert diagnose(bare, target_dtype=torch.float16, rules=["BN049"]).findings == ()
