"""The doctor's callbacks in the trainers that they are for, over a whole training."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from batchnorm.doctor import lightning_callback, transformers_callback
from tests.doctor.networks import images, trained

pytestmark = [pytest.mark.zoo, pytest.mark.filterwarnings("ignore")]
STEPS = 20


def hooks(model):
    return [m for m in model.modules() if m._forward_pre_hooks or m._forward_hooks]


@pytest.fixture
def faulty():
    """A network whose running statistics keep their initial values for thousands of batches."""
    return trained(momentum=0.001)


@pytest.mark.parametrize("fails", [False, True])
def test_lightning(faulty, fails, tmp_path):
    lightning = pytest.importorskip("lightning.pytorch", reason="lightning is not installed: make zoo")

    class Task(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = faulty

        def training_step(self, batch, number):
            assert hooks(self.net)
            if fails and number == STEPS - 1:
                raise RuntimeError("out of luck")
            return nn.functional.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    found = []
    watch = lightning_callback("net", every=8, on_finding=found.append)
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar"), False)
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=STEPS, callbacks=[watch], default_root_dir=tmp_path, **quiet
    )
    loader = DataLoader(TensorDataset(*images(32 * STEPS)), batch_size=32)
    if fails:
        with pytest.raises(RuntimeError, match="out of luck"):
            trainer.fit(Task(), loader)
    else:
        trainer.fit(Task(), loader)
    assert [finding.code for finding in found] == ["BN012"] * 3
    assert watch.findings == tuple(found)
    assert not hooks(faulty)


def test_transformers(faulty, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed: make zoo")
    pytest.importorskip("accelerate", reason="accelerate is not installed: make zoo")

    class Task(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = faulty

        def forward(self, pixels, labels):
            assert hooks(self.net)
            scores = self.net(pixels)
            return {"loss": nn.functional.cross_entropy(scores, labels), "logits": scores}

    found = []
    watch = transformers_callback("net", every=8, on_finding=found.append)
    arguments = transformers.TrainingArguments(
        output_dir=str(tmp_path), max_steps=STEPS, per_device_train_batch_size=32, use_cpu=True,
        report_to=[], save_strategy="no", disable_tqdm=True, optim="sgd", learning_rate=0.01,
    )  # fmt: skip
    data = [{"pixels": x, "labels": y} for x, y in zip(*images(32 * STEPS), strict=True)]
    trainer = transformers.Trainer(model=Task(), args=arguments, train_dataset=data, callbacks=[watch])
    trainer.train()
    assert [finding.code for finding in found] == ["BN012"] * 3
    assert watch.findings == tuple(found)
    assert not hooks(faulty)
