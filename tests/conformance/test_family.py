"""Every kind of statistics, alone and composed, against the oracle: outputs, gradients, running statistics.

In float64, where a wrong formula cannot hide behind rounding; that the pieces keep to the derived bounds
in every dtype and layout is `test_parts`.
"""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import batchnorm as bn
from batchnorm import reference
from batchnorm.ops import ACTIVATIONS
from tests.conformance.comparison import NATIVE, exact

STATISTICS = {
    "batch": bn.stats.Batch(),
    "ghost": bn.stats.Ghost(3),
    "ghost keep": bn.stats.Ghost(3, "keep"),
    "renorm": bn.stats.Renorm(1.3, 0.2),
    "warming renorm": bn.stats.Renorm(2.0, 1.0, warmup=1),
    "ghost renorm": bn.stats.Ghost(4) + bn.stats.Renorm(1.3, 0.2),
    "domains": bn.stats.Domains(3),
    "domains renorm": bn.stats.Domains(3) + bn.stats.Renorm(1.3, 0.2),
    "steps": bn.stats.PerStep(3),
    "cumulative ghost": bn.stats.Ghost(3) + bn.stats.Cumulative(),
}


@dataclasses.dataclass(frozen=True)
class Setting:
    """One layer and its batches; everything else follows from the seed."""

    kind: str
    samples: int
    spatial: tuple[int, ...]
    mask: str | None
    excluded: str
    activation: str | None
    residual: bool
    seed: int


settings_of = st.builds(
    Setting,
    kind=st.sampled_from(sorted(STATISTICS)),
    samples=st.integers(6, 11),
    spatial=st.sampled_from([(), (3,), (2, 3)]),
    mask=st.sampled_from([None, "positions", "channels", "weights"]),
    excluded=st.sampled_from(["zero", "normalize"]),
    activation=st.sampled_from(ACTIVATIONS),
    residual=st.booleans(),
    seed=st.integers(0, 2**16),
)


def parts_of(setting, generator):
    """The part of each sample, for the oracle; and what the layer is called with."""
    stats, n = STATISTICS[setting.kind], setting.samples
    if stats.find(bn.stats.Domains):
        domain = torch.randint(3, (n,), generator=generator)
        return domain.numpy(), {"domain": domain}
    if stats.find(bn.stats.PerStep):
        sizes = [n - n // 2 - 1, n // 2, 1]
        return np.repeat(np.arange(3), sizes), {"step": torch.tensor(sizes)}
    ghost = stats.find(bn.stats.Ghost)
    if ghost is None:
        return np.zeros(n, dtype=int), {}
    parts, whole = np.arange(n) // ghost.size, n // ghost.size
    alone = n - whole * ghost.size == 1 and not setting.spatial
    return (parts if ghost.last == "keep" and not alone else np.minimum(parts, whole - 1)), {}


def mask_of(setting, shape, generator):
    """As the layer takes it."""
    positions = (shape[0], *shape[2:])
    if setting.mask == "positions":
        return torch.rand(positions, generator=generator) < 0.7
    if setting.mask == "channels":
        return torch.rand(shape, generator=generator) < 0.7
    if setting.mask == "weights":
        drawn = torch.rand(positions, generator=generator, dtype=torch.float64)
        return torch.where(drawn < 0.3, 0.0, drawn)
    return None


def oracle(setting, layer, before, x, residual, grad, mask, parts):
    """Output, gradients and running statistics, from the state of the layer before the step."""
    stats, mean, var, tracked = layer.stats, *before
    weights = None
    if mask is not None:
        weights = exact(mask if mask.dim() == x.ndim else mask.unsqueeze(1))
    rows = mean.ndim == 2
    number = layer.stats.find(bn.stats.Rows).number if rows else int(parts.max()) + 1
    moments = reference.part_moments(x, weights, parts, number)
    fallback = tuple(v if rows else np.broadcast_to(v, moments.mean.shape) for v in (mean, var))
    used = reference.normalizing_stats(moments, fallback)
    correction = None
    renorm = stats.find(bn.stats.Renorm)
    if renorm is not None:
        limits = [
            reference.renorm_limits(int(step), renorm.r_max, renorm.d_max, renorm.warmup)
            for step in np.broadcast_to(tracked, (number,))
        ]
        each = [
            reference.renorm_correction(used[0][p], used[1][p], fallback[0][p], fallback[1][p], *limits[p])
            for p in range(number)
        ]
        correction = tuple(np.stack(values) for values in zip(*each, strict=True))
    options = {
        "weights": weights,
        "parts": parts,
        "correction": correction,
        "fallback": fallback,
        "excluded": setting.excluded,
        "residual": residual,
        "activation": setting.activation,
    }
    affine = exact(layer.weight), exact(layer.bias), layer.eps
    momentum = None if stats.find(bn.stats.Cumulative) else layer.momentum
    move = reference.update_running_rows if rows else reference.update_running_ghost
    return (
        reference.weighted_forward(x, *affine, **options),
        reference.weighted_backward(grad, x, *affine, **options),
        move(mean, var, tracked, moments, momentum),
    )


@pytest.mark.parametrize("backend", ["eager", NATIVE])
@given(setting=settings_of)
def test_every_kind_is_what_the_oracle_says(backend, setting):
    generator = torch.Generator().manual_seed(setting.seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    shape = (setting.samples, 2, *setting.spatial)
    layer = {0: bn.BatchNorm1d, 1: bn.BatchNorm1d, 2: bn.BatchNorm2d}[len(setting.spatial)](
        2,
        stats=STATISTICS[setting.kind],
        activation=setting.activation,
        excluded=setting.excluded,
        backend=backend,
        dtype=torch.float64,
    )
    with torch.no_grad():
        layer.weight.copy_(normal(2))
        layer.bias.copy_(normal(2))
    for _ in range(4):  # the running statistics, the counter and the limits of renorm move on
        x, grad = 3 * normal(*shape) + 1, normal(*shape)
        residual = normal(*shape) if setting.residual else None
        parts, called_with = parts_of(setting, generator)
        mask = mask_of(setting, shape, generator)
        if mask is not None and int((mask > 0).sum()) < 5 * (2 if setting.mask == "channels" else 1):
            continue  # too few values for one part; the errors have tests of their own
        before = [
            exact(buffer).copy()
            for buffer in (layer.running_mean, layer.running_var, layer.num_batches_tracked)
        ]
        leaves = [x.requires_grad_(), layer.weight, layer.bias]
        if residual is not None:
            leaves.append(residual.requires_grad_())
        y = layer(x, residual, mask=mask, **called_with)
        found = torch.autograd.grad(y, leaves, grad)
        expected, gradients, running = oracle(
            setting,
            layer,
            before,
            exact(x),
            None if residual is None else exact(residual),
            exact(grad),
            mask,
            parts,
        )
        close(y, expected)
        for gradient, name in zip(found, ("input", "weight", "bias", "residual"), strict=False):
            close(gradient, getattr(gradients, f"grad_{name}"))
        for buffer, value in zip(
            (layer.running_mean, layer.running_var, layer.num_batches_tracked), running, strict=True
        ):
            close(buffer, value)


def close(actual, expected):
    scale = max(1.0, float(np.abs(expected).max(initial=0)))
    np.testing.assert_allclose(exact(actual), expected, rtol=1e-9, atol=1e-9 * scale)
