import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, dense_net, rows, trained


def test_fires_on_two_rows_on_each_of_eight_ranks(whole):
    report = diagnose(dense_net(), rows(2), ranks=8, rules=["BN041"])
    assert report.codes == ("BN041",)
    whole(report)


def test_fires_on_a_batch_split_over_replicas(whole):
    whole(diagnose(dense_net(), rows(32), replicas=4, rules=["BN041"]))


def test_fires_on_two_images_and_a_pooled_branch_on_each_of_eight_ranks():
    pooled = (nn.AdaptiveAvgPool2d(1), nn.Conv2d(1, 4, 1, bias=False), nn.BatchNorm2d(4), nn.ReLU())
    report = diagnose(nn.Sequential(*pooled), [x for x, _ in batches(2)], ranks=8)
    assert report.codes == ("BN025", "BN041")
    assert report.findings[1].evidence == {"values": 2.0, "devices": 8.0}


def test_fires_on_large_maps_whose_pixels_are_alike():
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(4, 1, 1, 1, generator=generator).expand(4, 1, 16, 16) for _ in range(20)]
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 2, 3))
    assert diagnose(model, data, ranks=8, rules=["BN041"]).codes == ("BN041",)


def test_is_silent_on_methods_with_a_queue():
    assert diagnose(dense_net(), rows(2), ranks=8, independence="contrastive", rules=["BN041"]).findings == ()


def test_is_silent_on_32_rows_a_rank():
    assert diagnose(dense_net(), rows(32), ranks=8).findings == ()


def test_is_silent_on_frozen_layers_and_on_one_device():
    model = trained()
    for name in ("1", "4", "7"):
        model.get_submodule(name).eval()
    assert diagnose(model, batches(4), ranks=8).findings == ()
    assert "BN041" not in diagnose(dense_net(), rows(2)).codes
