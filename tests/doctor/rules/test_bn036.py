import contextlib
import functools

import pytest
import torch
from torch import nn

import batchnorm as bn
from batchnorm.doctor import diagnose
from tests.doctor.rules.mending import mend


def made_in_inference_mode():
    with torch.inference_mode():
        return nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))


def test_fires_on_a_layer_made_in_inference_mode(whole):
    report = diagnose(made_in_inference_mode())
    assert report.codes == ("BN036",)
    whole(report)


@pytest.mark.parametrize(("transform", "momentum"), [("vmap", 0.1), ("grad", 0.1), ("fullgraph", None)])
def test_fires_inside(transform, momentum, whole):
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=momentum), nn.Linear(3, 1))
    report = diagnose(model, transform=transform)
    assert report.codes == ("BN036",)
    whole(report)


NORMS = [functools.partial(bn.BatchNorm1d, backend=backend) for backend in ("eager", "torch")]


def under(transform, model):
    """Train inside a transform, the buffers not among the arguments."""
    x = torch.randn(5, 4, 3)
    if transform == "vmap":
        torch.func.vmap(model)(x)
    elif transform == "fullgraph":
        torch._dynamo.reset()
        torch.compile(model, fullgraph=True, backend="eager")(x[0])
    else:
        getattr(torch.func, transform)(lambda x: model(x).sum())(x[0])


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # dynamo's own
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("norm", [nn.BatchNorm1d, *NORMS], ids=["nn", "eager", "torch"])
@pytest.mark.parametrize("transform", ["vmap", "grad", "jacrev", "fullgraph"])
def test_fires_where_it_fails_and_is_silent_where_it_works(transform, norm, momentum):
    model = nn.Sequential(norm(3, momentum=momentum), nn.Linear(3, 1))
    found = diagnose(model, transform=transform.replace("jacrev", "grad"), rules=["BN036"]).findings
    with pytest.raises(Exception) if found else contextlib.nullcontext():  # noqa: PT011 - each has its own
        under(transform, model)


def test_is_silent_on_a_forward_inside_inference_mode():
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    with torch.inference_mode():
        model(torch.randn(4, 3))
    assert "BN036" not in diagnose(model).codes


@pytest.mark.parametrize("transform", ["vmap", "grad", "fullgraph"])
def test_is_silent_in_prediction_mode(transform):
    model = nn.Sequential(nn.BatchNorm1d(3, momentum=None), nn.Linear(3, 1)).eval()
    assert diagnose(model, transform=transform).findings == ()


def test_mending_lets_it_train():
    model = made_in_inference_mode()
    mend(model, diagnose(model), "BN036")
    model[0](torch.randn(4, 3)).sum().backward()
    assert "BN036" not in diagnose(model).codes
