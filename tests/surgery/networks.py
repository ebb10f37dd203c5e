"""Networks, data and snapshots for the tests of surgery."""

import torch
from torch import nn

from batchnorm import BatchNorm1d, BatchNorm2d
from batchnorm.surgery.layers import BatchNorm

__all__ = ["Images", "drifting", "inputs_in_prediction", "mlp", "pooled", "shuffled", "snapshot"]


def drifting(batches=6, rows=64, width=3, last=7, dtype=torch.float32):
    """Batches whose mean moves as far as they are wide, the last one small."""
    generator = torch.Generator().manual_seed(0)
    sizes = [rows] * (batches - 1) + [last]
    return [
        torch.randn(size, width, generator=generator, dtype=dtype) * (1 + number) + 3 * number
        for number, size in enumerate(sizes)
    ]


def shuffled(batches=20, rows=64, width=3, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, width, generator=generator) * 2 + 5 for _ in range(batches)]


def mlp(layer=BatchNorm1d, dtype=torch.float32, depth=2, width=3, seed=0, **options):
    torch.manual_seed(seed)
    blocks = [m for _ in range(depth) for m in (nn.Linear(width, width), layer(width, **options), nn.Tanh())]
    return nn.Sequential(*blocks, nn.Linear(width, 2)).to(dtype)


class Images(nn.Module):
    """Convolutions, with Dropout before the second batch norm."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential(
            nn.Conv2d(2, 3, 3), BatchNorm2d(3, activation="relu"), nn.Dropout(0.5), nn.Conv2d(3, 4, 3)
        )
        self.norm = nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.features(x))


def inputs_in_prediction(model, loader, forward=None):
    """All that each batch-norm layer is given when the model predicts, ``(C, values)`` in float64."""
    given = {}
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, name=name: given.setdefault(name, []).append(
                args[0].double().transpose(0, 1).flatten(1)
            )
        )
        for name, module in model.named_modules()
        if isinstance(module, BatchNorm)
    ]
    modes = {m: m.training for m in model.modules()}
    model.eval()
    with torch.no_grad():
        for batch in loader:
            (forward or (lambda model, batch: model(batch)))(model, batch)
    for module, mode in modes.items():
        module.training = mode
    for handle in handles:
        handle.remove()
    return {name: torch.cat(parts, 1) for name, parts in given.items()}


def pooled(values):
    """Mean and unbiased variance of ``(C, values)``."""
    return values.mean(1), values.var(1, correction=1)


def snapshot(model):
    """Everything that must not change: tensors by bit and identity, modes, momentum, hooks."""
    return {
        name: (
            module.training,
            getattr(module, "momentum", None),
            [(key, id(value), None if value is None else value.detach().numpy().tobytes())
             for key, value in (*module._parameters.items(), *module._buffers.items())],
            list(module._forward_pre_hooks.items()),
            list(module._forward_pre_hooks_with_kwargs.items()),
            list(module._forward_hooks.items()),
        )
        for name, module in model.named_modules()
    }  # fmt: skip
