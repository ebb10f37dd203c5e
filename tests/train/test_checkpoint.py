import pytest
import torch

from batchnorm.models import build
from batchnorm.train import TrainConfig
from batchnorm.train.checkpoint import Progress, load_checkpoint, restore, save_checkpoint, save_weights
from batchnorm.train.optimizer import make_optimizer


def checkpoint(tmp_path, model, scale=None):
    path = tmp_path / "checkpoint.safetensors"
    save_checkpoint(
        path, Progress("batch", 3, 2, scale), model, make_optimizer(model, TrainConfig(momentum=0.9))
    )
    return path


@pytest.mark.parametrize("scale", [None, (1024.0, 7)])
def test_what_is_saved_comes_back(tmp_path, scale):
    model = build("lenet", norm="batch", seed=0)
    progress, tensors = load_checkpoint(checkpoint(tmp_path, model, scale))
    assert progress == Progress("batch", 3, 2, scale)
    twin = build("lenet", norm="batch", seed=1)
    restore(tensors, twin, make_optimizer(twin, TrainConfig()), tmp_path)
    torch.testing.assert_close(twin.state_dict(), model.state_dict(), rtol=0, atol=0)


def test_a_damaged_checkpoint_is_named(tmp_path):
    path = checkpoint(tmp_path, build("lenet", norm="batch", seed=0))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"checkpoint.safetensors expected a checkpoint of batchnorm train"):
        load_checkpoint(path)


def test_other_tensors_are_no_checkpoint(tmp_path):
    save_weights(tmp_path / "w.safetensors", torch.nn.Linear(2, 2))
    with pytest.raises(ValueError, match="expected a checkpoint of batchnorm train, got 'progress'"):
        load_checkpoint(tmp_path / "w.safetensors")


def test_another_models_checkpoint_is_refused_in_one_line(tmp_path):
    path = checkpoint(tmp_path, build("lenet", norm="batch", seed=0))
    other = build("lenet", norm="none", seed=0)
    with pytest.raises(ValueError, match="expected the weights of this model, got ") as caught:
        restore(load_checkpoint(path)[1], other, make_optimizer(other, TrainConfig()), path)
    assert "\n" not in str(caught.value)
