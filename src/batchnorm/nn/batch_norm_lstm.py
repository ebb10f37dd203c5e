"""Recurrent batch normalization: an LSTM whose input, recurrence and cell are normalized at each step."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from batchnorm.nn.batch_norm import FX_LEAF, BatchNorm1d
from batchnorm.nn.recurrence import mirrored_rows, run_steps
from batchnorm.nn.statistics import PerStep

__all__ = ["BatchNormLSTM"]

States = tuple[Tensor, Tensor]


class BatchNormLSTM(nn.RNNBase):
    """An LSTM with batch normalization, in the place of `torch.nn.LSTM`.

    For each direction of each layer, with sequences x, h and c at one step::

        i, f, g, o = norm_ih(x @ weight_ih.T) + norm_hh(h @ weight_hh.T) + bias_ih + bias_hh
        c = sigmoid(f) * c + sigmoid(i) * tanh(g)
        h = sigmoid(o) * tanh(norm_cell(c))

    Each step has running statistics of its own, all steps share weight and bias. Steps are counted from
    where a direction begins: step 0 of the backward direction is the end of each sequence. The
    statistics of a step are those of the sequences still running, of which there must be two: a step with
    fewer uses its running statistics in training too, and leaves them as they are.

    Args:
        input_size: Features of the input.
        hidden_size: Features H of a direction's output.
        num_layers: Layers, each on the output of the one before.
        bias: Learn ``bias_ih`` and ``bias_hh``. Only their sum counts, as in torch.
        batch_first: Input and output are ``(N, T, …)`` instead of ``(T, N, …)``; states are not.
        dropout: Probability of dropping a value of each layer's output but the last's, in training.
        bidirectional: A second direction in each layer, with parameters and statistics of its own.
        device: Of all tensors.
        dtype: Of the parameters; running statistics stay float32 when this is a half type.
        max_steps: Steps that have statistics of their own, at least as many as a sequence has.
        beyond: What a longer sequence does: ``raise``, or share the statistics of the ``last`` step. The
            input of all those steps is then normalized together, the rest step by step.
        eps: Added to the variances; above 0.
        momentum: Weight of the *new* batch; None for the mean over all batches so far.

    Attributes:
        weight_ih_l0: And ``weight_hh_l0``, ``bias_ih_l0``, ``bias_hh_l0``, and so on for each layer
            (``l1``) and direction (``l0_reverse``): as in `torch.nn.LSTM`, whose state dict loads with
            ``strict=False``.
        norm_ih_l0: `BatchNorm1d` of 4H values i, f, g, o; ``weight`` from 0.1, no bias. Likewise
            ``norm_hh_l0``; and ``norm_cell_l0`` of H values, which also applies the tanh.

    Raises:
        ValueError: As `torch.nn.LSTM`, or if ``max_steps`` is below 1 or ``beyond`` is unknown.
        TypeError: As `torch.nn.LSTM`.

    References:
        Cooijmans et al. 2016, arXiv:1603.09025, equations 6 to 8, sections 3 and 4 (weight from 0.1).

    Differs from torch:
        No projections (``proj_size``). ``device`` and ``dtype`` are keywords only.

    Example:
        >>> lstm = BatchNormLSTM(3, 5, max_steps=7)
        >>> output, (h_n, c_n) = lstm(torch.randn(7, 4, 3))
        >>> output.shape, h_n.shape, lstm.norm_cell_l0.running_mean.shape
        (torch.Size([7, 4, 5]), torch.Size([1, 4, 5]), torch.Size([7, 5]))
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: Any = None,
        dtype: torch.dtype | None = None,
        max_steps: int,
        beyond: str = "raise",
        eps: float = 1e-5,
        momentum: float | None = 0.1,
    ) -> None:
        super().__init__(
            "LSTM",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            device=device,
            dtype=dtype,
        )
        self.__module__ = FX_LEAF
        self.steps = PerStep(max_steps, beyond)
        options: dict[str, Any] = {"stats": self.steps, "device": device, "dtype": dtype}
        for place in (place for layer in range(num_layers) for place in self._places(layer)):
            for path in ("ih", "hh"):
                norm = BatchNorm1d(4 * hidden_size, eps, momentum, bias=False, **options)
                self.add_module(f"norm_{path}_{place}", norm)
            norm = BatchNorm1d(hidden_size, eps, momentum, activation="tanh", **options)
            self.add_module(f"norm_cell_{place}", norm)
        self._reset_norms()

    def _places(self, layer: int) -> tuple[str, ...]:
        """How the names of a layer's parameters end, for each direction."""
        return (f"l{layer}", f"l{layer}_reverse") if self.bidirectional else (f"l{layer}",)

    def reset_parameters(self) -> None:
        """Draw weights and biases as torch does; start the normalizations afresh."""
        super().reset_parameters()
        self._reset_norms()

    def _reset_norms(self) -> None:
        for norm in self.children():
            assert isinstance(norm, BatchNorm1d)
            norm.reset_parameters()
            # with 1 the tanh would saturate and pass on too little gradient
            nn.init.constant_(norm.weight, 0.1)

    def forward(
        self, input: Tensor | PackedSequence, hx: States | None = None
    ) -> tuple[Tensor | PackedSequence, States]:
        """Run sequences through all layers.

        Args:
            input: Shape ``(T, N, input_size)``; or ``(N, T, input_size)`` if ``batch_first``; or
                ``(T, input_size)`` for one sequence; or packed sequences of any lengths.
            hx: First hidden and cell states ``h_0`` and ``c_0``, each ``(D * num_layers, N, H)`` or, for one
                sequence, ``(D * num_layers, H)``, D directions; None for 0.

        Returns:
            The last layer's hidden states at all steps, ``(T, N, D * H)`` or as the input is; and the
            states ``h_n`` and ``c_n`` at the end of each sequence, shaped as ``hx``.

        Raises:
            ValueError: If the input has another rank or dtype, or more than ``max_steps`` steps.
            RuntimeError: If the input has no step, or a size or device does not fit.
        """
        if isinstance(input, PackedSequence):
            data, batch_sizes, order, back = input
            sizes = batch_sizes.tolist()
            h, c = (_permuted(state, order) for state in self._first_states(data, sizes, hx))
            data, h, c = self._run(data, sizes, h, c)
            return PackedSequence(data, batch_sizes, order, back), (_permuted(h, back), _permuted(c, back))
        if input.dim() == 2:
            sizes = [1] * len(input)
            h, c = (state.unsqueeze(1) for state in self._first_states(input, sizes, hx, single=True))
            output, h, c = self._run(input, sizes, h, c)
            return output, (h.squeeze(1), c.squeeze(1))
        if input.dim() != 3:
            raise ValueError(f"batch_norm_lstm: input expected 2 or 3 dimensions, got {input.dim()}")
        steps = input.transpose(0, 1) if self.batch_first else input
        data, sizes = steps.flatten(0, 1), [steps.shape[1]] * len(steps)
        output, h, c = self._run(data, sizes, *self._first_states(data, sizes, hx))
        output = output.view(*steps.shape[:2], output.shape[1])
        return output.transpose(0, 1) if self.batch_first else output, (h, c)

    def _first_states(
        self, data: Tensor, sizes: list[int], hx: States | None, *, single: bool = False
    ) -> States:
        """Check what goes in, packed rows; h_0 and c_0, or zeros."""
        # torch's own check of dtype and features; it asks only whether there are sizes
        self.check_input(data, sizes)  # type: ignore[arg-type]
        if not sizes:
            raise RuntimeError("batch_norm_lstm: input expected at least 1 step, got 0")
        if len(sizes) > self.steps.max_steps and self.steps.beyond == "raise":
            raise ValueError(
                f"batch_norm_lstm: input expected at most {self.steps.max_steps} steps (max_steps), "
                f"got {len(sizes)}"
            )
        number = self.num_layers * len(self._places(0))
        shape = (number, self.hidden_size) if single else (number, sizes[0], self.hidden_size)
        if hx is None:
            return data.new_zeros(shape), data.new_zeros(shape)
        if len(hx) != 2:
            raise RuntimeError(f"batch_norm_lstm: hx expected two states, h_0 and c_0, got {len(hx)}")
        for name, state in zip(("h_0", "c_0"), hx, strict=True):
            if state.device != data.device:
                raise RuntimeError(
                    f"batch_norm_lstm: {name} expected on {data.device} like the input, got {state.device}"
                )
            fits = state.dtype == data.dtype or torch.is_autocast_enabled(data.device.type)
            if state.shape != shape or not fits:
                raise RuntimeError(
                    f"batch_norm_lstm: {name} expected shape {shape} and {data.dtype}, "
                    f"got {tuple(state.shape)} and {state.dtype}"
                )
        return hx

    def _run(self, data: Tensor, sizes: list[int], h_0: Tensor, c_0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All layers, over packed rows: the output's rows, h_n and c_n."""
        mirrored = mirrored_rows(sizes, data.device) if self.bidirectional else None
        states: list[States] = []
        for layer in range(self.num_layers):
            if layer > 0:
                data = F.dropout(data, self.dropout, self.training)
            outputs = []
            for place, rows in zip(self._places(layer), (None, mirrored), strict=False):
                gates = self._from_input(data if rows is None else data[rows], sizes, place)
                weight, norm, norm_cell = (
                    getattr(self, f"{name}_{place}") for name in ("weight_hh", "norm_hh", "norm_cell")
                )
                first = h_0[len(states)], c_0[len(states)]
                output, *last = run_steps(gates, sizes, *first, weight, norm, norm_cell)
                outputs.append(output if rows is None else output[rows])
                states.append((last[0], last[1]))
            data = torch.cat(outputs, dim=1)
        h_n, c_n = (torch.stack(last) for last in zip(*states, strict=True))
        return data, h_n, c_n

    def _from_input(self, data: Tensor, sizes: list[int], place: str) -> Tensor:
        """What input and bias give the gates, at all steps at once."""
        norm, weight = getattr(self, f"norm_ih_{place}"), getattr(self, f"weight_ih_{place}")
        gates: Tensor = norm(F.linear(data, weight), step=sizes)
        if self.bias:
            bias = getattr(self, f"bias_ih_{place}") + getattr(self, f"bias_hh_{place}")
            gates = gates + bias.to(gates.dtype)
        return gates

    def extra_repr(self) -> str:
        """Torch's words, and the steps."""
        words: str = super().extra_repr()
        return f"{words}, steps={self.steps!r}"


def _permuted(state: Tensor, order: Tensor | None) -> Tensor:
    return state if order is None else state.index_select(1, order)
