import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from batchnorm import BatchNorm1d, BatchNorm2d, stats
from batchnorm.doctor import Watch, diagnose
from tests.doctor.networks import batches, fresh, rows, train, trained
from tests.doctor.rules.mending import mend


class Checkpointed(nn.Module):
    def __init__(self, reentrant):
        super().__init__()
        self.body, self.reentrant = trained(), reentrant

    def forward(self, x):
        return checkpoint(self.body, x.requires_grad_(), use_reentrant=self.reentrant)


@pytest.mark.parametrize("reentrant", [True, False])
def test_fires_on_activation_checkpointing(reentrant, whole):
    report = diagnose(Checkpointed(reentrant), batches())
    assert report.codes == ("BN037",)
    assert report.findings[0].evidence == {"updates": 2.0, "recomputed": 1.0}
    whole(report)


def two_forwards(model, batch):
    loss = nn.functional.cross_entropy(model(batch[0]), batch[1])
    loss.backward()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(parameter.grad, alpha=0.05)
    nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()


def test_fires_on_a_two_step_optimizer(whole):
    report = diagnose(trained(), batches(), step_fn=two_forwards)
    assert report.codes == ("BN037",)
    whole(report)


def test_is_silent_on_one_pass_a_step():
    assert diagnose(trained(), batches()).findings == ()


def test_is_silent_on_our_layers_which_skip_recomputation():
    model = Checkpointed(False)
    model.body = train(fresh(BatchNorm2d), batches(), 3)
    assert diagnose(model, batches()).findings == ()


def test_is_silent_on_gradient_accumulation():
    assert diagnose(trained(), batches(), step_fn=two_forwards, accumulation=2).findings == ()


class Domains(nn.Module):
    """With statistics of its own for each kind of input."""

    def __init__(self):
        super().__init__()
        self.norm, self.out = BatchNorm1d(4, stats=stats.Domains(2)), nn.Linear(4, 1)

    def forward(self, x, domain=0):
        return self.out(self.norm(x, domain=domain))


def test_is_silent_on_a_layer_with_statistics_for_each_domain():
    def both(model, x):
        (model(x).sum() + model(4 * x + 3, 1).sum()).backward()

    assert diagnose(Domains(), rows(), step_fn=both, rules=["BN037", "BN038"]).findings == ()


def test_is_silent_where_the_recomputed_layer_is_frozen():
    model = Checkpointed(False)
    for norm in (model.body[1], model.body[4], model.body[7]):
        norm.eval()
    assert diagnose(model, batches()).findings == ()


@pytest.mark.parametrize("reentrant", [True, False])
def test_mended_layers_skip_what_is_computed_again(reentrant):
    model, once = Checkpointed(reentrant), trained()
    mend(model, diagnose(model, batches()), "BN037")
    x, y = batches()[0]
    nn.functional.cross_entropy(model(x), y).backward()
    once(x)
    assert torch.allclose(model.body[1].running_mean, once[1].running_mean, atol=1e-6)
    assert model.body[1].num_batches_tracked == once[1].num_batches_tracked


def test_further_forwards_are_a_persons_to_leave_out():
    _, done = diagnose(trained(), batches(), step_fn=two_forwards).fix(trained(), consent=["BN037"])
    assert {one.reason for one in done.mended} == {
        "yours to do: further forwards in prediction mode; or momentum 1 - (1 - m)^(1/2)"
    }


class Adversaries(nn.Module):
    """Generator and discriminator in one module, of which a step calls the parts."""

    def __init__(self):
        super().__init__()
        self.generator = nn.Sequential(
            nn.Linear(4, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6)
        )
        self.discriminator = nn.Sequential(
            nn.Linear(6, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 1)
        )

    def forward(self, noise):
        return self.discriminator(self.generator(noise))


def adversarial(model, noise):
    fake = model.generator(noise).detach()
    real = torch.randn(len(noise), 6, generator=torch.Generator().manual_seed(0)) + 3
    (model.discriminator(fake).mean() - model.discriminator(real).mean()).backward()
    model(noise).mean().backward()


def noises():
    return list(torch.randn(20, 64, 4, generator=torch.Generator().manual_seed(1)))


def test_fires_on_parts_that_a_step_calls_by_themselves():
    torch.manual_seed(0)
    report = diagnose(Adversaries(), noises(), step_fn=adversarial, rules=["BN037", "BN038"])
    found = {(f.code, f.layer): f.evidence.get("updates") for f in report.findings}
    assert found == {
        ("BN037", "generator.1"): 2.0,
        ("BN037", "discriminator.1"): 3.0,
        ("BN038", "discriminator.1"): None,
    }


def test_fires_on_parts_in_a_training_that_is_watched():
    torch.manual_seed(0)
    model = Adversaries()
    optimizers = [torch.optim.SGD(part.parameters(), 1e-3) for part in (model.generator, model.discriminator)]
    with Watch(
        model, every=8, optimizer=optimizers, rules=["BN037"], on_finding=lambda finding: None
    ) as watch:
        for noise in noises():
            adversarial(model, noise)
            for optimizer in optimizers:
                optimizer.step()
    updates = {finding.layer: finding.evidence["updates"] for finding in watch.findings}
    assert updates == {"generator.1": 2.0, "discriminator.1": 3.0}


def test_is_silent_on_parts_that_a_step_calls_once():
    def apart(model, noise):
        model.discriminator(model.generator(noise)).mean().backward()

    torch.manual_seed(0)
    assert diagnose(Adversaries(), noises(), step_fn=apart, rules=["BN037"]).findings == ()


def test_a_step_is_over_when_each_optimizer_has_made_one():
    torch.manual_seed(0)
    model = Adversaries()
    optimizers = [torch.optim.SGD(part.parameters(), 1e-3) for part in (model.generator, model.discriminator)]
    critic, real = optimizers[1], torch.randn(64, 6, generator=torch.Generator().manual_seed(0)) + 3
    with Watch(
        model, every=8, optimizer=optimizers, rules=["BN037"], on_finding=lambda finding: None
    ) as watch:
        for noise in noises():
            fake = model.generator(noise).detach()
            (model.discriminator(fake).mean() - model.discriminator(real).mean()).backward()
            critic.step()
            model(noise).mean().backward()
            optimizers[0].step()
    updates = {finding.layer: finding.evidence["updates"] for finding in watch.findings}
    assert updates == {"generator.1": 2.0, "discriminator.1": 3.0}
