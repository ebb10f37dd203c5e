"""Are our results right? The question before how fast they are.

The truth is the formula in float64, with torch's autograd, on contiguous copies of the same values.
(Not torch's own batch norm: that adds doubles one after another, and 150 000 of them put it 20 eps
off.) The tests have bounds for every element; here one bound a result is enough to tell a wrong
kernel. It is a number of eps of the result's dtype times the size of what the formula adds up:

- Output, gradients of x and of the residual: 32 eps. The arithmetic stays below 16 units (see
  ``tests/tolerances.py``), with a factor 2 because activations magnify. Half types: 4 eps, for the
  arithmetic in float32 adds nothing, and up to three results are rounded by half an eps each.
- Gradients of weight and bias, sums of M terms of random sign, which come to the root of the sum of
  their squares: 64 eps. A running sum of n terms is off by √n/5 eps of that size and blocks of n by
  no more, so that leaves room for blocks of 100 000 terms. Half types: 4 eps, for each term may
  have been rounded.
- Running statistics: 32 eps of the dtype they are held in.
"""

import dataclasses

import torch
from torch import Tensor

from batchnorm.bench.cases import Problem
from batchnorm.bench.steps import make_step, our_layer

__all__ = ["largest_error"]

_EPS = 1e-5
_MOMENTUM = 0.1


def largest_error(problem: Problem, backend: str) -> float:
    """Run our step once and compare all it computes with the truth.

    Around relu's corner a rounding may put the argument on the other side. No gradient is sent there,
    so that both sides are right.

    Args:
        problem: What to compute.
        backend: Of our layer.

    Returns:
        The largest error in units of its tolerance; right is at most 1. NaN counts as infinite.
    """
    truth = _Truth(problem)
    layer = our_layer(problem, backend)
    results = make_step(dataclasses.replace(problem, grad_output=truth.grad_output), layer)()
    moved = (layer.get_buffer("running_mean"), layer.get_buffer("running_var"))
    errors = [
        # a result may be nothing but zeros
        (actual.detach().double() - expected).abs().max() / max(tolerance, torch.finfo(torch.double).tiny)
        for actual, (expected, tolerance) in zip((*results, *moved), truth.expected(), strict=True)
    ]
    return torch.stack(errors).nan_to_num(nan=torch.inf, posinf=torch.inf).max().item()


class _Truth:
    """The results in float64, each with its tolerance, in the order of `make_step`'s results."""

    def __init__(self, problem: Problem) -> None:
        self.case = case = problem.case
        self.x = _exact(problem.x).requires_grad_(case.backward)
        self.others = [d for d in range(self.x.dim()) if d != 1]
        self.weight, bias, *running = (
            self._along(values)
            for values in (problem.weight, problem.bias, problem.running_mean, problem.running_var)
        )
        mean, var = running
        if case.training:
            mean = self.x.mean(self.others, keepdim=True)
            var = (self.x - mean).square().mean(self.others, keepdim=True)
            count = self.x.numel() / self.x.shape[1]
            batch = (mean.detach(), var.detach() * (count / (count - 1)))
            running = [old.lerp(new, _MOMENTUM) for old, new in zip(running, batch, strict=True)]
        self.running = [values.flatten() for values in running]
        self.invstd = (var + _EPS).rsqrt()
        self.x_hat = (self.x - mean) * self.invstd
        self.z = self.x_hat * self.weight + bias
        if problem.residual is not None:
            self.z = self.z + _exact(problem.residual)
        self.half = problem.x.dtype in (torch.float16, torch.bfloat16)
        self.unit = (4 if self.half else 32) * torch.finfo(problem.x.dtype).eps
        self.held_unit = 32 * torch.finfo(problem.running_mean.dtype).eps
        self.output_tolerance = self.unit * _largest(self.z)
        self.grad_output = problem.grad_output
        if case.activation == "relu":
            self.grad_output = self.grad_output.masked_fill(self.z.abs() <= self.output_tolerance, 0)

    def expected(self) -> list[tuple[Tensor, float]]:
        """Every result and its tolerance."""
        activation = {None: torch.clone, "relu": torch.relu, "sigmoid": torch.sigmoid}[self.case.activation]
        y = activation(self.z)
        results = [(y.detach(), self.output_tolerance)]
        if self.case.backward:
            results += self._gradients(y)
        return results + [(values, self.held_unit * _largest(values)) for values in self.running]

    def _gradients(self, y: Tensor) -> list[tuple[Tensor, float]]:
        (grad_z,) = torch.autograd.grad(y, self.z, _exact(self.grad_output), retain_graph=True)
        (grad_input,) = torch.autograd.grad(self.z, self.x, grad_z)
        largest = _largest(grad_z)
        results = [(grad_input, self.unit * largest * _largest(self.weight * self.invstd))]
        if self.case.residual:
            results.append((grad_z, self.unit * largest))
        unit = self.unit if self.half else 2 * self.unit
        for terms in (grad_z * self.x_hat.detach(), grad_z):  # of the weight's gradient, of the bias's
            size = terms.square().sum(self.others).sqrt()
            results.append((terms.sum(self.others), unit * _largest(size)))
        return results

    def _along(self, values: Tensor) -> Tensor:
        """One value a channel, shaped to meet x."""
        return values.double().reshape(-1, *[1] * (self.x.dim() - 2))


def _exact(values: Tensor) -> Tensor:
    return values.detach().double().contiguous()


def _largest(values: Tensor) -> float:
    return values.detach().abs().max().item()
