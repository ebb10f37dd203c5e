"""The recurrent layer against the oracle, and against torch's LSTM where they mean the same."""

import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence
from torch.testing._internal.common_modules import module_db
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.reference import LSTMParameters, LSTMRunning, StepStatistics, batch_norm_lstm_forward
from tests.finite_differences import central_differences

STEPS, SEQUENCES, INPUTS, HIDDEN = 4, 5, 2, 3
RAGGED = [2, 4, 1, 3, 3]  # 5, 4, 3 and 1 sequences are running
PATHS = ("ih", "hh", "cell")


def build(**options):
    """A layer whose parameters and running statistics are all different."""
    torch.manual_seed(0)
    options = {"max_steps": STEPS + 1, "dtype": torch.float64, "eps": 1e-2, "momentum": 0.3, **options}
    lstm = bn.BatchNormLSTM(INPUTS, HIDDEN, **options)
    with torch.no_grad():
        for parameter in lstm.parameters():
            parameter.normal_(0, 0.7)
        for norm in lstm.children():
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2.0)
            norm.num_batches_tracked.copy_(torch.arange(len(norm.running_mean)))
    return lstm


def inputs(lstm, dtype=torch.float64):
    torch.manual_seed(1)
    states = lstm.num_layers * (1 + lstm.bidirectional)
    shapes = {"x": (STEPS, SEQUENCES, INPUTS), **dict.fromkeys(("h_0", "c_0"), (states, SEQUENCES, HIDDEN))}
    return {name: torch.randn(shape, dtype=dtype, requires_grad=True) for name, shape in shapes.items()}


def places(lstm):
    directions = ("", "_reverse") if lstm.bidirectional else ("",)
    return [[f"l{layer}{direction}" for direction in directions] for layer in range(lstm.num_layers)]


def backwards(x, lengths):
    """Each sequence from its end to its beginning."""
    turned = x.copy()
    for sequence, length in enumerate(lengths):
        turned[:length, sequence] = x[:length, sequence][::-1]
    return turned


def arrays_of(tensors):
    return {name: tensor.detach().numpy().copy() for name, tensor in tensors.items()}


def running_of(buffers, place):
    names = ("running_mean", "running_var", "num_batches_tracked")
    return LSTMRunning(
        *(StepStatistics(*(buffers[f"norm_{path}_{place}.{name}"] for name in names)) for path in PATHS)
    )


def oracle(lstm, arrays, buffers, lengths, training):
    """Output, h_n, c_n and the running statistics of each place; ``arrays`` has inputs and parameters."""
    x, last, running = arrays["x"], [], {}
    for layer in places(lstm):
        outputs = []
        for place in layer:
            biases = [arrays[f"bias_{path}_{place}"] for path in ("ih", "hh")] if lstm.bias else [0.0]
            parameters = LSTMParameters(
                arrays[f"weight_ih_{place}"],
                arrays[f"weight_hh_{place}"],
                sum(biases, np.zeros(4 * HIDDEN)),
                *(arrays[f"norm_{path}_{place}.weight"] for path in PATHS),
                arrays[f"norm_cell_{place}.bias"],
            )
            turn = backwards if place.endswith("reverse") else lambda values, lengths: values
            found = batch_norm_lstm_forward(
                turn(x, lengths),
                parameters,
                running_of(buffers, place),
                lengths=lengths,
                h_0=arrays["h_0"][len(last)],
                c_0=arrays["c_0"][len(last)],
                training=training,
                momentum=lstm.norm_ih_l0.momentum,
                eps=lstm.norm_ih_l0.eps,
            )
            outputs.append(turn(found.output, lengths))
            last.append((found.h_n, found.c_n))
            running[place] = found.running
        x = np.concatenate(outputs, axis=2)
    return x, *map(np.stack, zip(*last, strict=True)), running


def run(lstm, x, h_0, c_0, lengths=None):
    """Padded output, h_n and c_n, of packed sequences if there are lengths."""
    if lengths is None:
        output, states = lstm(x, (h_0, c_0))
        return output, *states
    output, states = lstm(pack_padded_sequence(x, lengths, enforce_sorted=False), (h_0, c_0))
    return pad_packed_sequence(output)[0], *states


@pytest.mark.parametrize(
    ("options", "lengths", "training"),
    [
        ({}, None, True),
        ({}, RAGGED, True),
        ({"momentum": None, "bias": False}, RAGGED, True),
        ({"num_layers": 2}, None, True),
        ({"bidirectional": True}, RAGGED, True),
        ({"num_layers": 2, "bidirectional": True}, RAGGED, True),
        ({"num_layers": 2, "bidirectional": True}, None, False),
        ({"num_layers": 2, "bidirectional": True}, RAGGED, False),
    ],
)
def test_everything_is_what_the_oracle_says(options, lengths, training):
    lstm = build(**options).train(training)
    leaves = {**inputs(lstm), **dict(lstm.named_parameters())}
    arrays, buffers = arrays_of(leaves), arrays_of(dict(lstm.named_buffers()))
    ends = [STEPS] * SEQUENCES if lengths is None else lengths
    *outs, running = oracle(lstm, arrays, buffers, ends, training)
    found = run(lstm, *(leaves[name] for name in ("x", "h_0", "c_0")), lengths)
    for ours, expected in zip(found, outs, strict=True):
        close(ours, expected)
    moved = arrays_of(dict(lstm.named_buffers()))
    for place, expected in running.items():
        for ours, path in zip(running_of(moved, place), expected, strict=True):
            for values, others in zip(ours, path, strict=True):
                close(values, others)
    assert training is any((moved[name] != buffers[name]).any() for name in moved)

    rng = np.random.default_rng(2)
    grads = [rng.normal(size=out.shape) for out in outs]

    def loss(arrays):
        return sum(
            np.sum(grad * out)
            for grad, out in zip(grads, oracle(lstm, arrays, buffers, ends, training)[:3], strict=True)
        )

    gradients = torch.autograd.grad(found, list(leaves.values()), [torch.tensor(grad) for grad in grads])
    for (name, array), gradient in zip(arrays.items(), gradients, strict=True):
        way = rng.normal(size=array.shape)

        def along(distance, name=name, array=array, way=way):
            return loss({**arrays, name: array + distance * way})

        slope = central_differences(along, {"distance": np.zeros(())}, "distance")
        np.testing.assert_allclose(float((gradient.numpy() * way).sum()), slope, rtol=1e-6, atol=1e-7)


def close(actual, expected):
    if isinstance(actual, torch.Tensor):
        actual = actual.detach().numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-10, atol=1e-12)


def neutral(*args, **options):
    """A layer that normalizes by nothing in prediction, and torch's with the same weights."""
    options = {"dtype": torch.float64, **options}
    theirs = torch.nn.LSTM(*args, **options).eval()
    ours = bn.BatchNormLSTM(*args, max_steps=STEPS, **options).eval()
    missing, unexpected = ours.load_state_dict(theirs.state_dict(), strict=False)
    assert not unexpected
    assert all(name.startswith("norm_") for name in missing)
    for norm in ours.children():
        torch.nn.init.ones_(norm.weight)
        norm.running_var.fill_(1 - norm.eps)
    return ours, theirs


LSTM = next(info for info in module_db if info.module_cls is torch.nn.LSTM)


def test_prediction_that_normalizes_by_nothing_is_torchs_lstm():
    samples = LSTM.module_inputs_func(
        LSTM, device="cpu", dtype=torch.float64, requires_grad=False, training=False
    )
    tried = 0
    for sample in samples:  # single sequences
        options = dict(sample.constructor_input.kwargs)
        if options.pop("proj_size"):
            continue
        sizes = options.pop("input_size"), options.pop("hidden_size")
        ours, theirs = neutral(*sizes, **options)
        given = sample.forward_input
        same(ours(*given.args, **given.kwargs), theirs(*given.args, **given.kwargs))
        tried += 1
    assert tried == 16


def same(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, torch.Tensor):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-13)
    elif ours is not None:
        for our, their in zip(ours, theirs, strict=True):
            same(our, their)


@pytest.mark.parametrize("given_states", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize(
    "kind", ["padded", "batch_first", "sorted", "unsorted", "one step", "one sequence", "none"]
)
def test_every_kind_of_batch_comes_out_shaped_and_ordered_as_from_torch(kind, bidirectional, given_states):
    ours, theirs = neutral(
        INPUTS, HIDDEN, 2, bidirectional=bidirectional, batch_first=kind in ("batch_first", "unsorted")
    )
    lengths = {"sorted": [4, 3, 3, 1], "unsorted": RAGGED, "one step": [1] * 3, "one sequence": [4]}.get(kind)
    if lengths is None:
        shape = {"padded": (4, 5), "batch_first": (5, 4), "none": (4, 0)}[kind]
        x, sequences = torch.randn(*shape, INPUTS, dtype=torch.float64), 0 if kind == "none" else SEQUENCES
    else:
        x = pack_sequence(
            [torch.randn(length, INPUTS, dtype=torch.float64) for length in lengths],
            enforce_sorted=kind != "unsorted",
        )
        sequences = len(lengths)
    states = torch.randn(2, 2 * (1 + bidirectional), sequences, HIDDEN, dtype=torch.float64)
    arguments = (x, tuple(states)) if given_states else (x,)
    same(ours(*arguments), theirs(*arguments))


@pytest.mark.parametrize("training", [True, False])
def test_what_is_learned_does_not_depend_on_how_the_batch_is_given(training):
    lstm = build(bidirectional=True).train(training)
    first, packed = copy.deepcopy(lstm), copy.deepcopy(lstm)
    first.batch_first = True
    x, h_0, c_0 = inputs(lstm).values()
    output, states = lstm(x, (h_0, c_0))
    output_first, states_first = first(x.transpose(0, 1), (h_0, c_0))
    same((output_first.transpose(0, 1), states_first), (output, states))
    same(run(packed, x, h_0, c_0, [STEPS] * SEQUENCES), (output, *states))
    for other in (first, packed):
        torch.testing.assert_close(other.state_dict(), lstm.state_dict())


@pytest.mark.parametrize("batch_first", [True, False])
def test_a_single_sequence_is_predicted_in_training_too(batch_first):
    lstm = build(batch_first=batch_first)
    before = copy.deepcopy(lstm).eval()
    x, h_0, c_0 = (values[:, 0] for values in inputs(lstm).values())
    same(lstm(x, (h_0, c_0)), before(x, (h_0, c_0)))
    torch.testing.assert_close(lstm.state_dict(), before.state_dict(), rtol=0, atol=0)


def test_what_a_longer_sequence_does():
    x = torch.randn(5, 4, INPUTS)
    with pytest.raises(
        ValueError, match=r"^batch_norm_lstm: input expected at most 3 steps \(max_steps\), got 5$"
    ):
        bn.BatchNormLSTM(INPUTS, HIDDEN, max_steps=3)(x)
    lstm = bn.BatchNormLSTM(INPUTS, HIDDEN, max_steps=3, beyond="last")
    lstm(x)
    assert lstm.norm_hh_l0.num_batches_tracked.tolist() == [1, 1, 3]
    assert lstm.norm_ih_l0.num_batches_tracked.tolist() == [1, 1, 1]  # at once
    with pytest.raises(ValueError, match="max_steps expected at least 1, got 0"):
        bn.BatchNormLSTM(INPUTS, HIDDEN, max_steps=0)


def test_every_error_of_torchs_module_database_is_raised():
    samples = LSTM.module_error_inputs_func(
        LSTM, device="cpu", dtype=torch.float32, requires_grad=False, training=True
    )
    assert len(samples) > 3
    for sample in samples:

        def misuse(given=sample.module_error_input):
            built_with = given.constructor_input
            bn.BatchNormLSTM(*built_with.args, max_steps=2, **built_with.kwargs)(*given.forward_input.args)

        with pytest.raises(sample.error_type, match=sample.error_regex):
            misuse()


def states(*shapes, dtype=torch.float32):
    return tuple(torch.zeros(shape, dtype=dtype) for shape in shapes)


def packed(*shape):
    return pack_padded_sequence(torch.zeros(shape), [shape[0]] * shape[1])


GOOD = torch.zeros(4, 5, INPUTS)
FITTING = "expected shape (2, 5, 3) and torch.float32"
MISUSE = {
    "dtype": ((GOOD.double(),), "torch.float64"),
    "rank": ((torch.zeros(1, 4, 5, INPUTS),), "input expected 2 or 3 dimensions, got 4"),
    "features": ((torch.zeros(4, 5, 9),), "Expected 2, got 9"),
    "features of one": ((torch.zeros(4, 9),), "Expected 2, got 9"),
    "no step": ((torch.zeros(0, 5, INPUTS),), "input expected at least 1 step, got 0"),
    "sequences": ((GOOD, states((2, 4, 3), (2, 5, 3))), f"h_0 {FITTING}, got (2, 4, 3) and torch.float32"),
    "hidden": ((GOOD, states((2, 5, 3), (2, 5, 9))), f"c_0 {FITTING}, got (2, 5, 9) and torch.float32"),
    "three states": ((GOOD, states(*[(2, 5, 3)] * 3)), "hx expected two states, h_0 and c_0, got 3"),
    "states' rank": ((GOOD, states((2, 3), (2, 3))), f"h_0 {FITTING}, got (2, 3)"),
    "states' rank for one": ((GOOD[:, 0], states((2, 1, 3), (2, 1, 3))), "h_0 expected shape (2, 3) and"),
    "states' dtype": ((GOOD, states(*[(2, 5, 3)] * 2, dtype=torch.float64)), f"h_0 {FITTING}, got (2, 5, 3)"),
}


@pytest.mark.parametrize("misuse", MISUSE)
def test_misuse_raises_what_torchs_lstm_raises_in_one_clear_line(misuse):
    arguments, words = MISUSE[misuse]
    with pytest.raises((ValueError, RuntimeError)) as theirs:
        torch.nn.LSTM(INPUTS, HIDDEN, 2)(*arguments)
    with pytest.raises(theirs.type) as ours:
        bn.BatchNormLSTM(INPUTS, HIDDEN, 2, max_steps=4)(*arguments)
    assert ours.type is theirs.type
    assert words in str(ours.value)
    assert "\n" not in str(ours.value)


def test_packed_sizes_that_do_not_fit_are_refused():
    # torch's own LSTM reads past their end
    lstm = bn.BatchNormLSTM(INPUTS, HIDDEN, max_steps=4)
    with pytest.raises(RuntimeError, match=r"h_0 expected shape \(1, 5, 3\) .*, got \(1, 4, 3\)"):
        lstm(packed(4, 5, INPUTS), states((1, 4, 3), (1, 5, 3)))
    with pytest.raises(RuntimeError, match="Expected 2, got 9"):
        lstm(packed(4, 5, 9))


def test_it_starts_as_torchs_and_as_the_paper_says_and_can_start_again():
    lstms = []
    for build_one in (torch.nn.LSTM, lambda *args: bn.BatchNormLSTM(*args, max_steps=STEPS)):
        torch.manual_seed(0)
        lstms.append(build_one(INPUTS, HIDDEN, 2))
    theirs, ours = lstms
    start = copy.deepcopy(ours.state_dict())
    for name, values in theirs.state_dict().items():
        assert torch.equal(start[name], values)
    for norm in ours.children():
        assert (norm.weight == 0.1).all()
        assert (norm.bias is None) == (norm.num_features == 4 * HIDDEN)
    ours(torch.randn(STEPS, SEQUENCES, INPUTS))
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.add_(1)
    torch.manual_seed(0)
    ours.reset_parameters()
    torch.testing.assert_close(ours.state_dict(), start, rtol=0, atol=0)


def test_copies_and_files_hold_all_of_it():
    lstm = build(num_layers=2, bidirectional=True)
    x, h_0, c_0 = inputs(lstm).values()
    fresh = bn.BatchNormLSTM(
        INPUTS,
        HIDDEN,
        2,
        bidirectional=True,
        dtype=torch.float64,
        max_steps=STEPS + 1,
        eps=1e-2,
        momentum=0.3,
    )
    fresh.load_state_dict(lstm.state_dict())
    others = [copy.deepcopy(lstm), pickle.loads(pickle.dumps(lstm)), fresh]
    expected = lstm(x, (h_0, c_0))
    for other in others:
        same(other(x, (h_0, c_0)), expected)
        torch.testing.assert_close(other.state_dict(), lstm.state_dict())
        assert repr(other) == repr(lstm)
    assert "2, 3, num_layers=2, bidirectional=True, steps=PerStep(max_steps=5, beyond='raise')" in repr(lstm)


def test_dropout_acts_between_layers_in_training_only():
    lstm = build(num_layers=2, dropout=0.5)
    x = inputs(lstm)["x"].detach()
    torch.manual_seed(0)
    dropped = lstm(x)
    assert not torch.equal(lstm(x)[0], dropped[0])
    lstm.dropout = 0.0
    lstm.load_state_dict(build(num_layers=2).state_dict())
    # the first layer is untouched: its states are the first of h_n
    kept = lstm(x)
    assert torch.equal(kept[1][0][0], dropped[1][0][0])
    assert not torch.equal(kept[1][0][1], dropped[1][0][1])
    lstm.eval()
    without = lstm(x)
    lstm.dropout = 0.5
    same(lstm(x), without)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_dtypes_follow_the_double_layer(dtype):
    exact = build(bidirectional=True)
    half = copy.deepcopy(exact).to(dtype)
    x, h_0, c_0 = inputs(exact).values()
    expected = run(exact, x, h_0, c_0, RAGGED)
    found = run(half, *(values.to(dtype) for values in (x, h_0, c_0)), RAGGED)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=40 * torch.finfo(dtype).eps)
    found[0].float().sum().backward()
    assert all(p.grad.dtype == dtype and p.grad.isfinite().all() for p in half.parameters())
    assert half.norm_cell_l0.running_mean.dtype == torch.float32


def test_autocast_is_near_the_full_layer():
    lstm = build(dtype=torch.float32)
    x, h_0, c_0 = (values.float() for values in inputs(lstm).values())
    expected = run(copy.deepcopy(lstm), x, h_0, c_0)
    with torch.autocast("cpu", torch.bfloat16):
        found = run(lstm, x, h_0.bfloat16(), c_0)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.float(), theirs, rtol=0, atol=40 * torch.finfo(torch.bfloat16).eps)


@pytest.mark.parametrize("reentrant", [True, False])
def test_activation_checkpointing_moves_the_statistics_once(reentrant):
    lstm = build(bidirectional=True)
    other = copy.deepcopy(lstm)
    results = []
    for model, call in ((lstm, run), (other, lambda *args: checkpoint(run, *args, use_reentrant=reentrant))):
        leaves = inputs(model)
        found = call(model, *leaves.values(), RAGGED)
        sum(out.pow(2).sum() for out in found).backward()
        gradients = [leaf.grad for leaf in (*leaves.values(), *model.parameters())]
        results.append((found, gradients, model.state_dict()))
    torch.testing.assert_close(*results)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's tracer deprecates its own steps
def test_compiled_whole_it_is_the_same():
    lstm = build()
    other = copy.deepcopy(lstm)
    compiled = torch.compile(lstm, backend="aot_eager", fullgraph=True)
    x, h_0, c_0 = (
        leaf.detach().requires_grad_() for leaf in (values[:2] for values in inputs(lstm).values())
    )
    results = []
    for model, call in ((lstm, compiled), (other, other)):
        output, last = call(x, (h_0, c_0))
        gradients = torch.autograd.grad(output.pow(2).sum() + last[1].sum(), [x, *model.parameters()])
        results.append((output, last, gradients, model.state_dict()))
    torch.testing.assert_close(*results)


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_exported_it_takes_a_batch_of_any_size(bidirectional, batch_first):
    lstm = bn.BatchNormLSTM(
        3, 4, num_layers=2, max_steps=5, bidirectional=bidirectional, batch_first=batch_first
    ).eval()
    whole = torch.randn(7, 5, 3) if batch_first else torch.randn(5, 7, 3)
    dim = 0 if batch_first else 1
    program = torch.export.export(
        lstm, (whole.narrow(dim, 0, 2).contiguous(),), dynamic_shapes=({dim: torch.export.Dim.DYNAMIC},)
    )
    torch.testing.assert_close(program.module()(whole), lstm(whole))


def test_functional_gradients_are_those_of_backward():
    lstm = build()
    other = copy.deepcopy(lstm)
    x = inputs(lstm)["x"].detach()

    def loss(parameters):
        return torch.func.functional_call(lstm, parameters, (x,))[0].pow(2).sum()

    found = torch.func.grad(loss)(dict(lstm.named_parameters()))
    other(x)[0].pow(2).sum().backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)
    torch.testing.assert_close(lstm.state_dict(), other.state_dict())


def test_second_derivatives_are_those_of_differences():
    lstm = bn.BatchNormLSTM(1, 2, max_steps=2, bidirectional=True, dtype=torch.float64)
    x = pack_padded_sequence(torch.randn(2, 3, 1, dtype=torch.float64), [2, 2, 1])

    def output(data):
        return lstm(PackedSequence(data, *x[1:]))[0].data

    assert torch.autograd.gradgradcheck(output, x.data.requires_grad_())


def test_it_learns_what_the_first_step_was():
    """The class is the sign of the first input of the first step, five steps before the end, among noise."""
    torch.manual_seed(0)
    lstm = bn.BatchNormLSTM(2, 8, max_steps=6, batch_first=True)
    classify = torch.nn.Linear(8, 2)
    optimizer = torch.optim.Adam([*lstm.parameters(), *classify.parameters()], lr=0.02)
    losses = []
    for _ in range(100):
        x = torch.randn(64, 6, 2)
        loss = F.cross_entropy(classify(lstm(x)[0][:, -1]), (x[:, 0, 0] > 0).long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 0.6
    assert sum(losses[-5:]) / 5 < 0.3
    lstm.eval()
    x = torch.randn(256, 6, 2)
    right = classify(lstm(x)[0][:, -1]).argmax(1) == (x[:, 0, 0] > 0)
    assert right.float().mean() > 0.85


def test_packed_sequences_come_back_packed_as_they_were():
    lstm = build()
    x = pack_padded_sequence(inputs(lstm)["x"], RAGGED, enforce_sorted=False)
    output, _ = lstm(x)
    assert isinstance(output, PackedSequence)
    for ours, given in zip(output[1:], x[1:], strict=True):
        assert torch.equal(ours, given)


def test_a_state_on_another_device_is_refused_and_nothing_moves():
    lstm = bn.BatchNormLSTM(INPUTS, HIDDEN, max_steps=4)
    before = copy.deepcopy(lstm.state_dict())
    away = torch.zeros(1, 5, HIDDEN, device="meta")
    with pytest.raises(
        RuntimeError, match=r"^batch_norm_lstm: h_0 expected on cpu like the input, got meta$"
    ):
        lstm(torch.randn(4, 5, INPUTS), (away, away))
    torch.testing.assert_close(lstm.state_dict(), before, rtol=0, atol=0)
