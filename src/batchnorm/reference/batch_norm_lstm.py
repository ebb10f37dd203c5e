"""Recurrent batch normalization: an LSTM with three batch normalizations a step, forward only.

    f, i, o, g = BN(W_hh h; γ_hh, 0) + BN(W_ih x; γ_ih, 0) + b        (6)
    c ← σ(f) · c + σ(i) · tanh(g)                                     (7)
    h ← σ(o) · tanh(BN(c; γ_c, β_c))                                  (8)

Each time step has statistics of its own, and so have the three paths; γ and β are shared by all steps. The
gates stand in PyTorch's order i, f, g, o. The cell state is normalized on its way out only: what is
carried to the next step is c itself.

Legend: T steps, N sequences, I inputs, H hidden units, S ≥ T rows of running statistics.

References:
    Cooijmans et al. 2016, arXiv:1603.09025, equations 6-8 and section 3; γ starts at 0.1 (section 4).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from batchnorm.reference.activations import activate
from batchnorm.reference.batch_norm import batch_norm_predict
from batchnorm.reference.channels import Array, as_float64, unmasked
from batchnorm.reference.moments import part_moments
from batchnorm.reference.running import update_running_rows
from batchnorm.reference.weighted import weighted_forward

__all__ = ["LSTMOutput", "LSTMParameters", "LSTMRunning", "StepStatistics", "batch_norm_lstm_forward"]


class LSTMParameters(NamedTuple):
    """What an LSTM with batch normalization learns; rows of 4H stand in the order i, f, g, o."""

    weight_ih: Array  # (4H, I)
    weight_hh: Array  # (4H, H)
    bias: Array  # (4H,)
    gamma_ih: Array  # (4H,)
    gamma_hh: Array  # (4H,)
    gamma_cell: Array  # (H,)
    beta_cell: Array  # (H,)


class StepStatistics(NamedTuple):
    """Running statistics of one path, a row a time step."""

    running_mean: Array  # (S, F), F = 4H or H
    running_var: Array  # (S, F)
    num_batches_tracked: NDArray[np.int64]  # (S,)

    @classmethod
    def initial(cls, max_steps: int, num_features: int) -> "StepStatistics":
        """Mean 0, variance 1, no batch."""
        shape = (max_steps, num_features)
        return cls(np.zeros(shape), np.ones(shape), np.zeros(max_steps, dtype=np.int64))

    def copy(self) -> "StepStatistics":
        """Arrays of its own, of the dtypes above: integers could not move by a fraction."""
        mean, var, batches = map(unmasked, self._fields, self)
        return StepStatistics(mean.astype(np.float64), var.astype(np.float64), batches.astype(np.int64))


class LSTMRunning(NamedTuple):
    """Running statistics of the three paths."""

    ih: StepStatistics  # of W_ih x, (S, 4H)
    hh: StepStatistics  # of W_hh h, (S, 4H)
    cell: StepStatistics  # of c, (S, H)

    @classmethod
    def initial(cls, max_steps: int, hidden_size: int) -> "LSTMRunning":
        """Mean 0, variance 1, no batch."""
        return cls(*(StepStatistics.initial(max_steps, size * hidden_size) for size in (4, 4, 1)))


class LSTMOutput(NamedTuple):
    """What comes out; past the end of a sequence its output is 0 and its states stay."""

    output: Array  # (T, N, H), h of every step
    h_n: Array  # (N, H), h of each sequence's last step
    c_n: Array  # (N, H)
    running: LSTMRunning


def batch_norm_lstm_forward(
    x: ArrayLike,
    parameters: LSTMParameters,
    running: LSTMRunning,
    *,
    lengths: ArrayLike | None = None,
    h_0: ArrayLike | None = None,
    c_0: ArrayLike | None = None,
    training: bool = True,
    momentum: float | None = 0.1,
    eps: float = 1e-5,
) -> LSTMOutput:
    """Run sequences of unequal length through one direction of one layer.

    The statistics of a step are those of the sequences still running then. With fewer than 2 of them
    the step uses its row of running statistics, as prediction does, and leaves it as it is.

    Args:
        x: Shape ``(T, N, I)``; what stands past the end of a sequence does not matter.
        parameters: See `LSTMParameters`.
        running: See `LSTMRunning`; not changed.
        lengths: Steps of each sequence, ``(N,)``, 0 to T; None for T.
        h_0: First hidden state, ``(N, H)``; None for 0.
        c_0: First cell state, ``(N, H)``; None for 0.
        training: Normalize with the batch's statistics and move the running ones.
        momentum: Weight of the *new* batch in a row; None for 1 / (batches of the row so far).
        eps: Added to the variances.

    Returns:
        See `LSTMOutput`.

    Raises:
        ValueError: If the shape of ``x``, ``h_0`` or ``c_0`` does not fit, there are more steps than rows of
            running statistics, or ``lengths`` are not N integers from 0 to T.

    Example:
        >>> parameters = LSTMParameters(*(np.full(shape, 0.1) for shape in [(4, 1), (4, 1), 4, 4, 4, 1, 1]))
        >>> out = batch_norm_lstm_forward(np.zeros((3, 2, 1)), parameters, LSTMRunning.initial(3, 1),
        ...                               lengths=[3, 1])
        >>> out.output[:, 1, 0].round(4).tolist(), out.running.cell.num_batches_tracked.tolist()
        ([0.0523, 0.0, 0.0], [1, 0, 0])
    """
    x = as_float64("x", x)
    parameters = LSTMParameters(*map(as_float64, parameters._fields, parameters))
    moved = LSTMRunning(*(path.copy() for path in running))
    max_steps, hidden_size = moved.cell.running_mean.shape
    inputs = parameters.weight_ih.shape[1]
    if x.ndim != 3 or x.shape[2] != inputs:
        raise ValueError(f"batch_norm_lstm: x expected shape (T, N, {inputs}), got {x.shape}")
    steps, sequences, _ = x.shape
    if steps > max_steps:
        raise ValueError(f"batch_norm_lstm: x expected at most {max_steps} steps, got {steps}")
    ends = np.full(sequences, steps) if lengths is None else unmasked("lengths", lengths)
    if ends.shape != (sequences,) or ends.dtype.kind not in "iu" or (ends < 0).any() or (ends > steps).any():
        raise ValueError(
            f"batch_norm_lstm: lengths expected {sequences} integers from 0 to {steps}, got {lengths!r}"
        )
    h, c = (_state(name, state, (sequences, hidden_size)) for name, state in (("h_0", h_0), ("c_0", c_0)))
    output = np.zeros((steps, sequences, hidden_size))

    def normalize(
        values: Array, path: StepStatistics, step: int, gamma: Array, beta: Array | None = None
    ) -> Array:
        # `path` is one of `moved`: its row is read, and then moves
        row = slice(step, step + 1)
        mean, var, batches = path.running_mean[row], path.running_var[row], path.num_batches_tracked[row]
        if not training:
            return batch_norm_predict(values, mean[0], var[0], gamma, beta, eps)
        y = weighted_forward(values, gamma, beta, eps, fallback=(mean, var))
        mean[:], var[:], batches[:] = update_running_rows(mean, var, batches, part_moments(values), momentum)
        return y

    for step in range(ends.max(initial=0)):
        now = ends > step
        gates = (
            normalize(h[now] @ parameters.weight_hh.T, moved.hh, step, parameters.gamma_hh)
            + normalize(x[step, now] @ parameters.weight_ih.T, moved.ih, step, parameters.gamma_ih)
            + parameters.bias
        )
        i, f, g, o = np.split(gates, 4, axis=1)
        c[now] = _sigmoid(f) * c[now] + _sigmoid(i) * np.tanh(g)
        cell = normalize(c[now], moved.cell, step, parameters.gamma_cell, parameters.beta_cell)
        h[now] = _sigmoid(o) * np.tanh(cell)
        output[step, now] = h[now]
    return LSTMOutput(output, h, c, moved)


def _state(name: str, values: ArrayLike | None, shape: tuple[int, int]) -> Array:
    """A state to write into: the caller's stays."""
    if values is None:
        return np.zeros(shape)
    state = as_float64(name, values).copy()
    if state.shape != shape:
        raise ValueError(f"batch_norm_lstm: {name} expected shape {shape}, got {state.shape}")
    return state


def _sigmoid(z: Array) -> Array:
    return activate(z, "sigmoid")
