import torch
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, fresh, train, trained
from tests.doctor.rules.mending import mend


def outlier(scale=100.0, whole=False):
    model = trained()
    x = batches()[0][0].clone()
    x[slice(None) if whole else 0] *= scale
    with torch.no_grad():
        model(x)
    return model


def test_fires_on_one_wild_image(whole):
    report = diagnose(outlier(), batches())
    assert report.codes == ("BN003",)
    whole(report)


def test_fires_on_one_wild_image_of_64():
    data = batches(64, 10)
    model, x = train(fresh(), data, 3), data[0][0].clone()
    x[0] *= 100
    model(x)
    report = diagnose(model, data)
    assert [finding.code for finding in report.findings if finding.severity == "error"] == ["BN003"]


def test_fires_on_a_wild_batch(whole):
    report = diagnose(outlier(1000.0, whole=True), batches())
    assert report.codes == ("BN003",)
    whole(report)


def test_fires_as_a_hint_without_data(whole):
    layer = nn.BatchNorm1d(5)
    layer.running_var[2] = 1e5
    whole(diagnose(layer.state_dict(), rules=["BN003"]))


def test_is_silent_on_a_healthy_network():
    assert diagnose(trained(), batches()).findings == ()


def test_is_silent_without_data_on_a_layer_with_channels_that_are_nearly_dead():
    layer = nn.BatchNorm1d(5)
    layer.running_var.copy_(torch.tensor([1e-6, 1e-6, 1e-6, 0.5, 0.5]))
    assert diagnose(layer.state_dict(), rules=["BN003"]).findings == ()


def test_is_silent_without_data_on_a_batch_that_was_scaled():
    assert "BN003" not in diagnose(outlier(1000.0, whole=True)).codes  # nothing in the layer tells


def test_is_silent_on_means_that_are_off_where_the_variance_is_right():
    model = trained()
    model[1].running_mean += 2 * model[1].running_var.sqrt()
    assert diagnose(model, batches()).codes == ("BN027",)


def test_mending_forgets_the_outlier():
    model = outlier()
    mend(model, diagnose(model, batches()), "BN003", batches())
    assert diagnose(model, batches()).findings == ()


def two_kinds(model, batch):
    """A step as a discriminator's: real images, then generated ones, which are far louder."""
    x, y = batch
    for kind in (x, 8 * x):
        nn.functional.cross_entropy(model(kind), y).backward()


def of_two_kinds():
    model = trained()
    with torch.no_grad():
        for x, _ in batches():
            model(x), model(8 * x)
    return model


def test_is_explained_by_forwards_of_another_kind_in_each_step():
    report = diagnose(of_two_kinds(), batches(), step_fn=two_kinds)
    assert "BN037" in report.codes
    assert "BN038" in report.codes
    assert "BN003" not in report.codes
    assert "BN003" in [finding.code for finding in report.withdrawn]


def test_is_not_explained_by_them_where_a_wild_batch_came_besides():
    model = of_two_kinds()
    with torch.no_grad():
        model(1000 * batches()[0][0])
    assert "BN003" in diagnose(model, batches(), step_fn=two_kinds).codes


def test_a_hint_beside_initial_values_that_weigh_in_stands_without_data():
    layer = nn.BatchNorm1d(5, momentum=0.01)
    layer(torch.randn(64, 5, generator=torch.Generator().manual_seed(0)) + 100)
    layer.running_var[2] = 1e5
    report = diagnose(nn.Sequential(layer, nn.Linear(5, 1)), rules=["BN003", "BN012"])
    assert set(report.codes) == {"BN012", "BN003"}
    assert report.skipped == {}
