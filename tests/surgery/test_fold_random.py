"""Random networks, with layers shared and reused at random, give the same after folding."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import batchnorm as bn
from tests.surgery.folds import assert_folds, settled

CHANNELS = 2
KINDS = {
    "conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1),
    "valid": lambda: nn.Conv2d(CHANNELS, CHANNELS, 1, bias=False),
    "reflect": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, padding_mode="reflect"),
    "transposed": lambda: nn.ConvTranspose2d(CHANNELS, CHANNELS, 3, padding=1, groups=CHANNELS),
    "norm": lambda: nn.BatchNorm2d(CHANNELS),
    "bare": lambda: nn.BatchNorm2d(CHANNELS, affine=False),
    "fused": lambda: bn.BatchNorm2d(CHANNELS, activation="relu"),
    "identity": nn.Identity,
}
OPERATIONS = {
    "tanh": lambda x, y: x.tanh(),
    "add": lambda x, y: x + y,
    "turn": lambda x, y: x.transpose(2, 3),
}


class Program(nn.Module):
    """Walks through its parts, with some steps repeated and values reused; the output is some values."""

    def __init__(self, kinds, steps, outputs):
        super().__init__()
        self.parts = nn.ModuleList([KINDS[kind]() for kind in kinds])
        self.kinds, self.steps, self.outputs = kinds, steps, outputs

    def forward(self, x):
        values, place = [x], 0
        for step, first, second in self.steps:
            # counted from the end, so that most steps go on from the last value
            a, b = values[-1 - first % len(values)], values[-1 - second % len(values)]
            if step in OPERATIONS:
                values.append(OPERATIONS[step](a, b))
                continue
            place = (place + step) % len(self.parts)
            residual = (b,) if self.kinds[place] == "fused" and second else ()
            values.append(self.parts[place](a, *residual))
        return [values[-1 - output % len(values)] for output in self.outputs]


STEPS = st.tuples(
    st.sampled_from([1, 1, 1, 1, 1, 0, 2, *OPERATIONS]),
    st.sampled_from([0, 0, 0, 0, 0, 0, 1, 2, 3]),
    st.sampled_from([0, 0, 1, 2]),
)


@settings(max_examples=300)
@given(
    st.lists(st.sampled_from(list(KINDS)), min_size=2, max_size=8),
    st.lists(STEPS, min_size=2, max_size=9),
    st.lists(st.sampled_from([0, 0, 1, 2]), min_size=1, max_size=2),
    st.integers(0, 99),
)
def test_a_random_network_is_the_same_after_folding(kinds, steps, outputs, seed):
    torch.manual_seed(seed)
    model = settled(Program(kinds, steps, outputs), seed)
    x = torch.randn(2, CHANNELS, 5, 5, dtype=torch.float64)
    _, report = assert_folds(model, x, torch.randn(1, CHANNELS, 4, 4, dtype=torch.float64), within=1e-9)
    assert not report.untraced
