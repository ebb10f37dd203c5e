import pytest
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, trained
from tests.doctor.test_untouched import everything


@pytest.fixture
def world(tmp_path):
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.fixture
def counted(monkeypatch):
    """A torch whose broadcast raises the version of what it writes."""

    def broadcast(self):
        for buffer in self.buffers():
            buffer.add_(0)

    monkeypatch.setattr(DistributedDataParallel, "_sync_buffers", broadcast)


def real_and_fake(model, batch):
    x, _ = batch
    (model(x).sum() - model(x + 1).sum()).backward()


def hazard(broadcast=True, **settings):
    model = DistributedDataParallel(trained())
    model.broadcast_buffers = broadcast  # as an argument it has another name in newer versions
    return diagnose(model, batches(), rules=["BN044"], **settings)


def test_fires_on_real_and_fake_before_one_backward(world, counted, whole):
    report = hazard(step_fn=real_and_fake)
    assert [(f.code, f.severity) for f in report.findings] == [("BN044", "warn")]
    whole(report)


def test_fires_for_information_where_the_broadcast_does_not_count(world, whole):
    whole(hazard(step_fn=real_and_fake))


def test_fires_although_the_backward_fails(world, counted):
    def fails(model, batch):
        real_and_fake(model, batch)
        raise RuntimeError("modified by an inplace operation")

    assert hazard(step_fn=fails).codes == ("BN044",)


def test_is_silent_on_forwards_in_prediction_mode(world, counted):
    def step(model, batch):
        model.eval()
        real_and_fake(model, batch)

    assert hazard(step_fn=step).findings == ()


def test_is_silent_on_one_forward_and_without_the_broadcast(world, counted):
    assert hazard().findings == ()
    assert hazard(step_fn=real_and_fake, broadcast=False).findings == ()


def test_is_silent_without_the_wrapper():
    assert diagnose(trained(), batches(), rules=["BN044"], step_fn=real_and_fake).findings == ()


def test_the_broadcast_leaves_no_trace(world):
    model = DistributedDataParallel(trained())
    before = everything(model.module)
    assert diagnose(model, batches(), rules=["BN044"], step_fn=real_and_fake).codes == ("BN044",)
    assert everything(model.module) == before
