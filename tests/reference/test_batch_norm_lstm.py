"""The recurrent oracle against torch: its LSTM in prediction, its batch norm step by step in training."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from batchnorm.reference import LSTMParameters, LSTMRunning, StepStatistics, batch_norm_lstm_forward
from tests.finite_differences import central_differences

STEPS, SEQUENCES, INPUTS, HIDDEN = 4, 5, 2, 3
LENGTHS = np.array([4, 3, 1, 3, 2])  # 5, 4, 3 and 1 sequences are running


def parameters(seed=0):
    rng = np.random.default_rng(seed)
    shapes = [(4 * HIDDEN, INPUTS), (4 * HIDDEN, HIDDEN), *[4 * HIDDEN] * 3, HIDDEN, HIDDEN]
    return LSTMParameters(*(rng.normal(0.0, 0.7, shape) for shape in shapes))


def running(seed=1):
    rng = np.random.default_rng(seed)
    return LSTMRunning(
        *(
            StepStatistics(
                rng.normal(size=(STEPS + 1, size)),
                rng.uniform(0.5, 2.0, (STEPS + 1, size)),
                np.arange(STEPS + 1),
            )
            for size in (4 * HIDDEN, 4 * HIDDEN, HIDDEN)
        )
    )


def inputs(seed=2):
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(2, SEQUENCES, HIDDEN))
    return {"x": rng.normal(size=(STEPS, SEQUENCES, INPUTS)), "h_0": states[0], "c_0": states[1]}


def torch_forward(x, h, c, parameters, running, momentum, eps):
    """The same with one `torch.nn.functional.batch_norm` a path and step, which moves `running`."""
    outputs = []
    for step in range(STEPS):
        now = torch.tensor(LENGTHS) > step

        def norm(values, path, gamma, beta, step=step, now=now):
            training = bool(now.sum() > 1)
            mean, var = path.running_mean[step], path.running_var[step]
            return F.batch_norm(values, mean, var, gamma, beta, training, momentum, eps)

        gates = (
            norm(h[now] @ parameters.weight_hh.T, running.hh, parameters.gamma_hh, None)
            + norm(x[step, now] @ parameters.weight_ih.T, running.ih, parameters.gamma_ih, None)
            + parameters.bias
        )
        i, f, g, o = gates.chunk(4, dim=1)
        c_now = f.sigmoid() * c[now] + i.sigmoid() * g.tanh()
        cell = norm(c_now, running.cell, parameters.gamma_cell, parameters.beta_cell)
        c = c.index_put((now,), c_now)
        h = h.index_put((now,), o.sigmoid() * cell.tanh())
        outputs.append(h * now[:, None])
    return torch.stack(outputs), h, c


@pytest.fixture(scope="module")
def both():
    """Ours, and torch's with gradients of a weighted sum of everything that comes out."""
    rng = np.random.default_rng(3)
    grads = [rng.normal(size=shape) for shape in [(STEPS, SEQUENCES, HIDDEN), *[(SEQUENCES, HIDDEN)] * 2]]
    arrays = {**inputs(), **parameters()._asdict()}
    before = running()

    def ours(x, h_0, c_0, **weights):
        return batch_norm_lstm_forward(
            x, LSTMParameters(**weights), before, lengths=LENGTHS, h_0=h_0, c_0=c_0, momentum=0.3, eps=1e-2
        )

    def loss(**arrays):
        return sum(np.sum(grad * out) for grad, out in zip(grads, ours(**arrays)[:3], strict=True))

    leaves = {name: torch.tensor(values, requires_grad=True) for name, values in arrays.items()}
    moved = LSTMRunning(*(StepStatistics(*map(torch.tensor, path)) for path in running()))
    weights = LSTMParameters(*list(leaves.values())[3:])
    theirs = torch_forward(leaves["x"], leaves["h_0"], leaves["c_0"], weights, moved, 0.3, 1e-2)
    sum((torch.tensor(grad) * out).sum() for grad, out in zip(grads, theirs, strict=True)).backward()
    return ours(**arrays), theirs, moved, lambda name: central_differences(loss, arrays, name), leaves


def test_training_agrees_with_torchs_batch_norm_step_by_step(both):
    ours, theirs, *_ = both
    for name, our, their in zip(ours._fields, ours[:3], theirs, strict=False):
        np.testing.assert_allclose(our, their.detach(), rtol=1e-11, atol=1e-13, err_msg=name)


def test_running_statistics_agree_with_torchs(both):
    ours, _, moved, *_ = both
    for path in LSTMRunning._fields:
        our, their = getattr(ours.running, path), getattr(moved, path)
        np.testing.assert_allclose(our.running_mean, their.running_mean, rtol=1e-11, err_msg=path)
        np.testing.assert_allclose(our.running_var, their.running_var, rtol=1e-11, err_msg=path)


def test_steps_with_fewer_than_two_sequences_move_nothing(both):
    ours, *_ = both
    for before, after in zip(running(), ours.running, strict=True):
        for old, new in zip(before, after, strict=True):
            assert np.array_equal(new[3:], old[3:])
            assert (new[:3] != old[:3]).all()
        assert after.num_batches_tracked.tolist() == [1, 2, 3, 3, 4]


def test_what_goes_in_is_not_changed():
    arrays, before = inputs(), running()
    batch_norm_lstm_forward(**arrays, parameters=parameters(), running=before, lengths=LENGTHS)
    assert all(map(np.array_equal, arrays.values(), inputs().values()))
    for path, fresh in zip(before, running(), strict=True):
        assert all(map(np.array_equal, path, fresh))


def test_whole_numbers_move_by_fractions():
    before = LSTMRunning.initial(STEPS, HIDDEN)
    whole = LSTMRunning(*(StepStatistics(*(np.array(v, dtype=int) for v in path)) for path in before))
    moved, expected = (
        batch_norm_lstm_forward(**inputs(), parameters=parameters(), running=start).running
        for start in (whole, before)
    )
    for ours, theirs in zip(moved, expected, strict=True):
        assert all(map(np.array_equal, ours, theirs))
        assert ours.running_mean.any()


@pytest.mark.parametrize("name", ["x", "h_0", "c_0", *LSTMParameters._fields])
def test_slopes_agree_with_torchs_gradients(both, name):
    *_, slopes, leaves = both
    np.testing.assert_allclose(slopes(name), leaves[name].grad, rtol=1e-6, atol=1e-8)


def test_prediction_with_statistics_that_change_nothing_is_torchs_lstm():
    ones = {"gamma_ih": np.ones(4 * HIDDEN), "gamma_hh": np.ones(4 * HIDDEN)}
    weights = parameters()._replace(**ones, gamma_cell=np.ones(HIDDEN), beta_cell=np.zeros(HIDDEN))
    neutral = LSTMRunning(
        *(path._replace(running_var=path.running_var - 1e-5) for path in LSTMRunning.initial(STEPS, HIDDEN))
    )
    ours = batch_norm_lstm_forward(
        **inputs(), parameters=weights, running=neutral, lengths=LENGTHS, training=False
    )
    lstm = torch.nn.LSTM(INPUTS, HIDDEN, dtype=torch.float64)
    lstm.load_state_dict(
        {
            "weight_ih_l0": torch.tensor(weights.weight_ih),
            "weight_hh_l0": torch.tensor(weights.weight_hh),
            "bias_ih_l0": torch.tensor(weights.bias),
            "bias_hh_l0": torch.zeros(4 * HIDDEN),
        }
    )
    x, h_0, c_0 = (torch.tensor(values) for values in inputs().values())
    packed = pack_padded_sequence(x, torch.tensor(LENGTHS), enforce_sorted=False)
    output, (h_n, c_n) = lstm(packed, (h_0[None], c_0[None]))
    theirs = (pad_packed_sequence(output)[0], h_n[0], c_n[0])
    for our, their in zip(ours[:3], theirs, strict=True):
        np.testing.assert_allclose(our, their.detach(), rtol=1e-12, atol=1e-14)
    for before, after in zip(neutral, ours.running, strict=True):
        assert all(map(np.array_equal, before, after))


def test_one_step_of_two_sequences_by_hand():
    """Two different values always become −1 and 1, so every gate is ±γ_hh ± γ_ih + b."""
    weights = LSTMParameters(
        weight_ih=np.ones((4, 1)),
        weight_hh=np.ones((4, 1)),
        bias=np.array([0.0, 1.0, 2.0, 3.0]),  # i, f, g, o
        gamma_ih=np.full(4, 0.5),
        gamma_hh=np.full(4, 0.25),
        gamma_cell=np.array([0.1]),
        beta_cell=np.array([0.2]),
    )
    states = np.array([[3.0], [-1.0]])  # h up in the first sequence, x up in the second
    out = batch_norm_lstm_forward(
        [[[7.0], [9.0]]], weights, LSTMRunning.initial(1, 1), h_0=states, c_0=[[2.0], [0.0]], eps=0.0
    )

    def sigmoid(z):
        return 1 / (1 + np.exp(-z))

    # −½ + ¼ and ½ − ¼
    first = sigmoid(0.75) * 2 + sigmoid(-0.25) * np.tanh(1.75)
    second = sigmoid(0.25) * np.tanh(2.25)
    np.testing.assert_allclose(out.c_n, [[first], [second]], rtol=1e-14)
    assert first > second
    expected = [[sigmoid(2.75) * np.tanh(0.3)], [sigmoid(3.25) * np.tanh(0.1)]]
    np.testing.assert_allclose(out.h_n, expected, rtol=1e-14)
    # h is 3 and −1: mean 1, unbiased 8; x is 7 and 9: mean 8, unbiased 2
    np.testing.assert_allclose(out.running.hh.running_mean, np.full((1, 4), 0.1), rtol=1e-14)
    np.testing.assert_allclose(out.running.hh.running_var, np.full((1, 4), 1.7), rtol=1e-14)
    np.testing.assert_allclose(out.running.ih.running_mean, np.full((1, 4), 0.8), rtol=1e-14)
    np.testing.assert_allclose(out.running.ih.running_var, np.full((1, 4), 1.1), rtol=1e-14)
    np.testing.assert_allclose(out.running.cell.running_mean, [[0.05 * (first + second)]], rtol=1e-14)


def test_nothing_past_the_end_of_a_sequence_matters():
    arrays = inputs()
    clean = batch_norm_lstm_forward(**arrays, parameters=parameters(), running=running(), lengths=LENGTHS)
    for sequence, length in enumerate(LENGTHS):
        arrays["x"][length:, sequence] = np.nan
    ours = batch_norm_lstm_forward(**arrays, parameters=parameters(), running=running(), lengths=LENGTHS)
    assert all(map(np.array_equal, ours[:3], clean[:3]))
    assert not ours.output[3, 1:].any()


@pytest.mark.parametrize(
    ("steps", "lengths", "text"),
    [
        (6, None, "x expected at most 5 steps, got 6"),
        (2, [1, 3], "lengths expected 2 integers from 0 to 2, got [1, 3]"),
        (2, [1, -1], "lengths expected 2 integers from 0 to 2, got [1, -1]"),
        (2, [1.0, 2.0], "lengths expected 2 integers from 0 to 2, got [1.0, 2.0]"),
        (2, [1], "lengths expected 2 integers from 0 to 2, got [1]"),
    ],
)
def test_refusals(steps, lengths, text):
    with pytest.raises(ValueError, match=r"^batch_norm_lstm: ") as refusal:
        batch_norm_lstm_forward(np.zeros((steps, 2, INPUTS)), parameters(), running(), lengths=lengths)
    assert str(refusal.value) == f"batch_norm_lstm: {text}"


@pytest.mark.parametrize(
    ("name", "shape", "text"),
    [
        ("x", (4, 5), "x expected shape (T, N, 2), got (4, 5)"),
        ("x", (4, 5, 3), "x expected shape (T, N, 2), got (4, 5, 3)"),
        ("h_0", (3,), "h_0 expected shape (5, 3), got (3,)"),
        ("c_0", (1, 5, 3), "c_0 expected shape (5, 3), got (1, 5, 3)"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(name, shape, text):
    with pytest.raises(ValueError, match=r"^batch_norm_lstm: ") as refusal:
        batch_norm_lstm_forward(
            **{**inputs(), name: np.zeros(shape)}, parameters=parameters(), running=running()
        )
    assert str(refusal.value) == f"batch_norm_lstm: {text}"


def test_masked_parameters_and_statistics_are_refused():
    weights, before = parameters(), running()
    bias = np.ma.masked_array(weights.bias)
    with pytest.raises(ValueError, match=r"^batch_norm: bias expected an array without a mask"):
        batch_norm_lstm_forward(**inputs(), parameters=weights._replace(bias=bias), running=before)
    cell = before.cell._replace(running_var=np.ma.masked_array(before.cell.running_var))
    with pytest.raises(ValueError, match=r"^batch_norm: running_var expected an array without a mask"):
        batch_norm_lstm_forward(**inputs(), parameters=weights, running=before._replace(cell=cell))
