import pytest
import torch
from torch import nn
from torch.nn import functional

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, dense_net, rows, trained

LONG = 65536
RIGHT = functional.batch_norm


@pytest.fixture
def affected(monkeypatch):
    """A build whose kernel leaves rows beyond 65535 as they are."""

    def wrong(input, *args, **kwargs):
        output = RIGHT(input, *args, **kwargs)
        if len(input) >= LONG and not args[4]:
            output = torch.cat([output[: LONG - 1], input[LONG - 1 :]])
        return output

    monkeypatch.setattr(functional, "batch_norm", wrong)


def long_rows():
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(LONG, 1, 1, 1, generator=generator) * 2 + 1 for _ in range(8)]


def seen(data):
    model = nn.Sequential(nn.BatchNorm2d(1), nn.Conv2d(1, 1, 1))
    with torch.no_grad():
        for x in data:
            model(x)
    return model


def test_fires_on_a_kernel_that_leaves_rows_out(affected, whole):
    data = long_rows()
    report = diagnose(seen(data), data, rules=["BN050"])
    assert report.codes == ("BN050",)
    whole(report)


def test_fires_on_a_kernel_that_refuses(monkeypatch, whole):
    def refuses(input, *args, **kwargs):
        if not args[4]:
            raise RuntimeError("CUDNN_STATUS_NOT_SUPPORTED\nmore lines")
        return RIGHT(input, *args, **kwargs)

    model = trained()
    monkeypatch.setattr(functional, "batch_norm", refuses)
    whole(diagnose(model, batches(), rules=["BN050"]))


def test_is_silent_on_the_same_rows_on_a_cpu():
    data = long_rows()
    assert diagnose(seen(data), data, rules=["BN050"]).findings == ()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("layout", ["sliced", "channels_last", "far"])
def test_is_silent_on_rounding_in_every_dtype_and_layout(dtype, layout):
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(16, 6, 5, 5, generator=generator) for _ in range(8)]
    data = {
        "sliced": [x[:, :, 1::2] for x in data],
        "channels_last": [x.contiguous(memory_format=torch.channels_last) for x in data],
        "far": [x * 0.1 + 100 for x in data],
    }[layout]
    model = nn.BatchNorm2d(6).to(dtype)
    data = [x.to(dtype) for x in data]
    with torch.no_grad():
        for x in data:
            model(x)
    assert diagnose(model, data, rules=["BN050"]).findings == ()


def test_is_silent_on_statistics_that_are_not_finite():
    model = trained()
    model[1].running_var[0] = float("nan")
    assert diagnose(model, batches(), rules=["BN050"]).findings == ()


def test_is_silent_on_a_batch_of_one_that_training_refuses():
    report = diagnose(dense_net(), rows(1))
    assert "BN024" in report.codes
    assert "BN050" not in report.codes
