"""One direction of a recurrent layer, step by step over packed rows.

Legend: the rows of packed sequences lie step by step, ``sizes[t]`` rows at step t, the longest sequence
first, as in `torch.nn.utils.rnn.PackedSequence`. R rows, N = ``sizes[0]`` sequences, H hidden units.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from batchnorm.ops.parts import numbered

__all__ = ["mirrored_rows", "run_steps"]


def mirrored_rows(sizes: list[int], device: torch.device) -> Tensor:
    """For each row the row of the same sequence as far from the other end, ``(R,)``; its own inverse."""
    per_step = torch.tensor(sizes, device=device)
    lengths = (per_step[:, None] > torch.arange(sizes[0], device=device)).sum(0)
    first = per_step.cumsum(0) - per_step
    step = numbered(sizes, device)
    sequence = torch.arange(sum(sizes), device=device) - first[step]
    return first[lengths[sequence] - 1 - step] + sequence


def run_steps(
    gates: Tensor, sizes: list[int], h: Tensor, c: Tensor, weight: Tensor, norm: Any, norm_cell: Any
) -> tuple[Tensor, Tensor, Tensor]:
    """Run an LSTM with normalized recurrence and cell from the first step to the last.

    Args:
        gates: What the input and the bias give each gate, ``(R, 4H)`` in the order i, f, g, o.
        sizes: See the legend.
        h: First hidden state, ``(N, H)``.
        c: First cell state, ``(N, H)``.
        weight: Of the recurrence, ``(4H, H)``.
        norm: Of what the recurrence gives the gates; called with a residual and ``step``.
        norm_cell: Of the cell state, with tanh as its activation; called with ``step``.

    Returns:
        The hidden states ``(R, H)``; hidden and cell states at the end of each sequence, ``(N, H)``.
    """
    outputs, ended = [], []
    for step, (size, from_input) in enumerate(zip(sizes, torch.split(gates, sizes), strict=True)):
        if size < h.shape[0]:  # torch.export takes len for a constant
            ended.append((h[size:], c[size:]))
            h, c = h[:size], c[:size]
        i, f, g, o = norm(F.linear(h, weight), from_input, step=step).chunk(4, dim=1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * norm_cell(c, step=step)
        outputs.append(h)
    ended.append((h, c))
    h_n, c_n = (torch.cat(states[::-1]) for states in zip(*ended, strict=True))
    return torch.cat(outputs), h_n, c_n
