"""Kinds of statistics as objects, and what each promises beside its formula (`test_family` has those)."""

import copy
import functools
import pickle

import numpy as np
import pytest
import torch
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from tests.conformance.comparison import each_of_ours

S = bn.stats
KINDS = [
    S.Batch(),
    S.Synced(),
    S.Ghost(4),
    S.Renorm(),
    S.Frozen(),
    S.Cumulative(),
    S.Scheduled(0.5, 0.1, 10),
    S.Accumulated(3),
    S.Domains(2),
    S.PerStep(3, "last"),
    S.Synced() + S.Renorm() + S.Domains(2) + S.Accumulated(2),
]
CALLED_WITH = {S.Domains: {"domain": 1}, S.PerStep: {"step": 2}}


def arguments_for(stats):
    return next((given for kind, given in CALLED_WITH.items() if stats.find(kind)), {})


def images(n=6, dtype=torch.float32):
    return torch.randn(n, 3, 4, 5, generator=torch.Generator().manual_seed(0), dtype=dtype)


@pytest.mark.parametrize("stats", KINDS, ids=str)
def test_layers_of_every_kind_copy_pickle_and_show_themselves(stats):
    layer = bn.BatchNorm2d(3, stats=stats)
    layer(images(), **arguments_for(stats))
    twins = copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))
    y = layer(images(), **arguments_for(stats))
    for twin in twins:
        assert twin.stats == stats
        assert repr(twin) == repr(layer)
        assert torch.equal(twin(images(), **arguments_for(stats)), y)
        torch.testing.assert_close(twin.state_dict(), layer.state_dict(), rtol=0, atol=0)
    if stats != S.Batch():
        assert f"stats={stats!r}" in repr(layer)
        assert eval(repr(stats), vars(S)) == stats


def test_kinds_add_up_in_any_order_of_brackets():
    one, two, three = S.Synced(), S.Renorm(), S.Domains(2)
    assert (one + two) + three == one + (two + three)
    assert (one + two).find(S.Renorm) == two
    assert (one + two).find(S.Domains) is None


def test_a_kind_adds_to_a_kind_only():
    with pytest.raises(TypeError, match="unsupported operand"):
        S.Batch() + 1


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (S.Ghost(4), S.Synced()),
        (S.Renorm(), S.Renorm(2, 2)),
        (S.Frozen(), S.Renorm()),
        (S.Frozen(), S.Accumulated(2)),
        (S.Ghost(4), S.Domains(2)),
        (S.PerStep(4), S.Synced()),
        (S.PerStep(4), S.Domains(2)),
        (S.Cumulative(), S.Scheduled(0.5, 0.1, 10)),
    ],
    ids=str,
)
def test_kinds_that_contradict_each_other_do_not_add_up(one, two):
    for first, second in ((one, two), (two, one)):
        with pytest.raises(ValueError, match=r"stats: expected kinds that go together, got .* \+ "):
            first + second


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S.Ghost(1), "Ghost: size expected at least 2 samples, got 1"),
        (lambda: S.Ghost(4, "drop"), "Ghost: last expected merge or keep, got 'drop'"),
        (lambda: S.Renorm(0.5), "Renorm: r_max expected at least 1, got 0.5"),
        (lambda: S.Renorm(float("nan")), "Renorm: r_max expected at least 1, got nan"),
        (lambda: S.Renorm(3, -1), "Renorm: d_max expected at least 0, got -1"),
        (
            lambda: S.Renorm(3, 5, (9, 5, 10)),
            "Renorm: warmup expected 0 <= start <= ends, got \\(9, 5, 10\\)",
        ),
        (lambda: S.Scheduled(1.5, 0.1, 10), "Scheduled: start expected 0 to 1, got 1.5"),
        (lambda: S.Scheduled(0.5, 0.0, 10, "geometric"), "expected above 0 for geometric, got 0.5, 0.0"),
        (lambda: S.Scheduled(0.5, 0.1, 0), "Scheduled: steps expected at least 1, got 0"),
        (lambda: S.Scheduled(0.5, 0.1, 5, "cosine"), "shape expected linear or geometric, got 'cosine'"),
        (lambda: S.Accumulated(0), "Accumulated: batches expected at least 1, got 0"),
        (lambda: S.Domains(0), "Domains: n expected at least 1, got 0"),
        (lambda: S.PerStep(0), "PerStep: max_steps expected at least 1, got 0"),
        (lambda: S.Ghost(2.5), "Ghost: size expected an integer, got 2.5"),
        (lambda: S.Domains(2.5), "Domains: n expected an integer, got 2.5"),
        (lambda: S.PerStep("3"), "PerStep: max_steps expected an integer, got '3'"),
        (lambda: S.Accumulated(2.5), "Accumulated: batches expected an integer, got 2.5"),
        (lambda: S.Scheduled(0.5, 0.1, 2.5), "Scheduled: steps expected an integer, got 2.5"),
        (lambda: S.Renorm(3, 5, 2.5), "Renorm: warmup expected an integer or three, got 2.5"),
        (lambda: S.Renorm(3, 5, (1, 2)), "Renorm: warmup expected an integer or three, got \\(1, 2\\)"),
        (lambda: S.Renorm(None), "Renorm: r_max expected at least 1, got None"),
        (lambda: S.Renorm(3, [5]), "Renorm: d_max expected at least 0, got \\[5\\]"),
        (lambda: S.Scheduled("0.5", 0.1, 3), "Scheduled: start expected 0 to 1, got '0.5'"),
        (lambda: S.Scheduled(0.5, None, 3), "Scheduled: end expected 0 to 1, got None"),
        (lambda: S.PerStep(3, "wrap"), "PerStep: beyond expected raise or last, got 'wrap'"),
    ],
)
def test_kinds_out_of_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_kinds_take_whole_numbers_of_any_kind():
    for number in (np.int64(3), torch.tensor(3)):
        assert repr(S.Ghost(number)) == "Ghost(size=3, last='merge')"
        assert S.PerStep(number) == S.PerStep(3)
        assert repr(S.Renorm(warmup=number)) == repr(S.Renorm(warmup=3))
    assert S.Renorm(warmup=[1, np.int64(3), 2]) == S.Renorm(warmup=(1, 3, 2))
    assert repr(S.Renorm(warmup=True)) == repr(S.Renorm(warmup=1))


def test_kinds_that_need_running_statistics_say_so():
    for stats in (S.Frozen(), S.Renorm(), S.Domains(2), S.Scheduled(0.5, 0.1, 3)):
        with pytest.raises(ValueError, match="track_running_stats expected True with"):
            bn.BatchNorm2d(3, track_running_stats=False, stats=stats)


def test_torchs_kernel_serves_the_batchs_own_statistics_only():
    with pytest.raises(ValueError, match="backend expected another with Ghost"):
        bn.BatchNorm2d(3, stats=S.Ghost(2), backend="torch")
    with pytest.raises(ValueError, match="backend expected another with a mask"):
        bn.BatchNorm2d(3, backend="torch")(images(), mask=torch.ones(6, 4, 5, dtype=torch.bool))


@each_of_ours
def test_renorm_within_limits_1_and_0_is_batch_norm_to_the_last_bit(backend):
    renorm = bn.BatchNorm2d(3, stats=S.Renorm(1, 0), activation="relu", backend=backend)
    plain = bn.BatchNorm2d(3, activation="relu", backend=backend)
    for scale in (1, 5):
        x1, x2 = (scale * images()).requires_grad_(), (scale * images()).requires_grad_()
        y1, y2 = renorm(x1), plain(x2)
        y1.square().sum().backward()
        y2.square().sum().backward()
        assert torch.equal(y1, y2)
        assert torch.equal(x1.grad, x2.grad)
    torch.testing.assert_close(renorm.state_dict(), plain.state_dict(), rtol=0, atol=0)


@each_of_ours
def test_renorm_without_limits_is_prediction(backend):
    layer = bn.BatchNorm2d(3, stats=S.Renorm(torch.inf, torch.inf), backend=backend, dtype=torch.float64)
    x = 3 * images(dtype=torch.float64) + 1
    layer(x)
    predicted = copy.deepcopy(layer).eval()(x)
    torch.testing.assert_close(layer(x), predicted, rtol=1e-12, atol=1e-12)


def test_renorm_begins_as_batch_norm_and_its_limits_rise():
    layer = bn.BatchNorm2d(3, stats=S.Renorm(3, 5, warmup=2), dtype=torch.float64)
    x = 30 * images(dtype=torch.float64) + 100
    plain = bn.BatchNorm2d(3, dtype=torch.float64)(x)
    distances = [(layer(x) - plain).abs().max().item() for _ in range(12)]
    assert distances[:3] == pytest.approx([0, 0, 0], abs=1e-12)
    assert distances[3] > 0.5
    assert distances[4] > distances[3]


@pytest.mark.parametrize("affine", [False, True])
def test_frozen_layers_stay_so_in_training(affine):
    layer = bn.BatchNorm2d(3, stats=S.Frozen(affine=affine))
    layer.running_mean.copy_(torch.tensor([1.0, 2.0, 3.0]))
    before, x = copy.deepcopy(layer.state_dict()), images().requires_grad_()
    y = layer.train()(x)
    assert torch.equal(y, copy.deepcopy(layer).eval()(x))
    y.square().sum().backward()
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)
    assert (layer.weight.grad is None) == affine
    assert x.grad is not None


def test_cumulative_statistics_are_the_mean_over_all_batches():
    layer, batches = bn.BatchNorm1d(2, stats=S.Cumulative(), momentum=0.7), torch.randn(5, 8, 2)
    for batch in batches:
        layer(batch)
    torch.testing.assert_close(layer.running_mean, batches.mean((0, 1)))
    torch.testing.assert_close(layer.running_var, batches.var(1).mean(0))


@pytest.mark.parametrize(
    ("shape", "expected"), [("linear", [0.5, 0.3, 0.1, 0.1]), ("geometric", [0.5, 0.05**0.5, 0.1, 0.1])]
)
def test_scheduled_momentum(shape, expected):
    layer = bn.BatchNorm1d(1, stats=S.Scheduled(0.5, 0.1, 2, shape), dtype=torch.float64)
    x, mean = torch.tensor([[1.0], [3.0]], dtype=torch.float64), 0.0
    for momentum in expected:
        layer(x)
        mean = (1 - momentum) * mean + momentum * 2.0
        assert layer.running_mean.item() == pytest.approx(mean, rel=1e-12)


def test_accumulated_micro_batches_move_the_statistics_as_the_one_large_batch():
    accumulated = bn.BatchNorm2d(3, stats=S.Accumulated(3), dtype=torch.float64)
    large = bn.BatchNorm2d(3, dtype=torch.float64)
    for scale in (1, 2):
        x = scale * images(9, torch.float64) + scale
        for number, micro in enumerate(x.split([4, 3, 2])):
            before = accumulated.running_mean.clone()
            own = bn.BatchNorm2d(3, dtype=torch.float64)(micro)
            torch.testing.assert_close(accumulated(micro), own, rtol=1e-10, atol=1e-10)
            assert torch.equal(accumulated.running_mean, before) == (number < 2)
        large(x)
        torch.testing.assert_close(accumulated.state_dict(), large.state_dict(), rtol=1e-12, atol=1e-12)


def test_domains_keep_their_statistics_apart_and_share_the_affine():
    layer = bn.BatchNorm1d(2, stats=S.Domains(3), dtype=torch.float64)
    separate = [bn.BatchNorm1d(2, dtype=torch.float64) for _ in range(3)]
    domain = torch.tensor([2, 0, 2, 2, 0, 2])
    x = torch.randn(6, 2, dtype=torch.float64) + 10 * domain[:, None]
    y = layer(x, domain=domain)
    for d in (0, 2):
        torch.testing.assert_close(y[domain == d], separate[d](x[domain == d]), rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(layer.running_var[d], separate[d].running_var, rtol=1e-12, atol=1e-12)
    assert layer.num_batches_tracked.tolist() == [1, 0, 1]
    assert torch.equal(layer.running_mean[1], torch.zeros(2, dtype=torch.float64))
    layer.eval()
    torch.testing.assert_close(
        layer(x, domain=domain)[domain == 2], layer(x[domain == 2], domain=2), rtol=1e-12, atol=1e-12
    )
    assert sum(p.numel() for p in layer.parameters()) == 4


@pytest.mark.parametrize(
    ("stats", "called_with", "message"),
    [
        (S.Batch(), {"domain": 1}, "domain expected none without Domains, got 1"),
        (S.Domains(2), {}, "domain expected one with Domains, got None"),
        (S.Domains(2), {"domain": 2}, "domain expected 0 to 1, got 2"),
        (S.Domains(2), {"domain": torch.tensor([0, 1, 2, 0])}, "domain expected 0 to 1, got 0 to 2"),
        (
            S.Domains(2),
            {"domain": [0, 1, 1, 0]},
            "domain expected an integer or a tensor of 4 integers, got list",
        ),
        (S.Domains(2), {"domain": np.array([0, 1, 1, 0])}, "or a tensor of 4 integers, got ndarray"),
        (S.Domains(2), {"domain": 0.5}, "or a tensor of 4 integers, got float"),
        (S.Domains(2), {"domain": torch.tensor(1.7)}, r"integers, got \(\) of torch.float32"),
        (S.PerStep(2), {"step": 0.5}, "step expected an integer or sizes of the steps, got float"),
        (
            S.PerStep(2),
            {"step": [2.5, 1.5]},
            r"step expected an integer or sizes of the steps, got list",
        ),
        (S.PerStep(2), {"step": torch.tensor(0.5)}, r"sizes of the steps, got \(\) of torch.float32"),
        (S.PerStep(2), {"step": [5, -1]}, "step expected sizes of at least 0, got -1"),
        (S.Domains(2), {"domain": torch.tensor([0, 1])}, "domain expected an integer or 4 integers, got"),
        (S.Batch(), {"step": 1}, "step expected none without PerStep, got 1"),
        (S.PerStep(2), {}, "step expected one with PerStep, got None"),
        (S.PerStep(2), {"step": 2}, "step expected 0 to 1, the steps of PerStep\\(max_steps=2"),
        (S.PerStep(2), {"step": [2, 1, 1]}, "step expected 0 to 1, .* got 2"),
        (S.PerStep(2), {"step": [2, 1]}, "step expected sizes of 4 samples, got 3"),
        (S.Batch(), {"mask": torch.ones(4, 3, dtype=torch.bool)}, r"mask expected to broadcast to \(4,\) or"),
        (S.Batch(), {"mask": torch.ones(3, dtype=torch.bool)}, r"mask expected to broadcast to \(4,\) or"),
        (S.Batch(), {"mask": torch.ones(4, dtype=torch.int64)}, "mask expected booleans or floating"),
        (
            S.Batch(),
            {"mask": torch.zeros(4, dtype=torch.bool)},
            "mask expected a true value, got none in this",
        ),
        (S.Batch(), {"mask": torch.arange(4) < 1}, "expected more than 1 value per channel"),
    ],
)
def test_calls_that_do_not_fit_are_refused_and_change_nothing(stats, called_with, message):
    layer = bn.BatchNorm1d(2, stats=stats)
    before = copy.deepcopy(layer.state_dict())
    with pytest.raises(ValueError, match=message) as caught:
        layer(torch.randn(4, 2), **called_with)
    assert "\n" not in str(caught.value)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_steps_beyond_the_last_share_its_statistics_by_choice():
    layer = bn.BatchNorm1d(2, stats=S.PerStep(2, "last"))
    layer(torch.randn(4, 2), step=5)
    layer(torch.randn(8, 2), step=[3, 3, 2])
    assert layer.num_batches_tracked.tolist() == [1, 2]


def test_steps_beyond_the_last_are_refused_otherwise():
    with pytest.raises(ValueError, match="step expected 0 to 1"):
        bn.BatchNorm1d(2, stats=S.PerStep(2))(torch.randn(4, 2), step=5)


@pytest.mark.parametrize("reentrant", [True, False])
@pytest.mark.parametrize("stats", KINDS, ids=str)
def test_activation_checkpointing_moves_the_statistics_once(stats, reentrant):
    plain, repeated = (bn.BatchNorm2d(3, stats=stats, dtype=torch.float64) for _ in range(2))
    gradients = []
    for layer, through in ((plain, False), (repeated, True)):
        inputs = []
        for scale in (1, 2):
            x = (scale * images(dtype=torch.float64) + 1).requires_grad_()
            inputs.append(x)
            if through:
                # torch's reentrant checkpoint passes no keyword arguments on
                call = functools.partial(layer, **arguments_for(stats))
                y = checkpoint(call, x, use_reentrant=reentrant)
            else:
                y = layer(x, **arguments_for(stats))
            gradients.append(y)
        sum(y.square().sum() for y in gradients[-2:]).backward()
        gradients[-2:] = [x.grad for x in inputs]
    torch.testing.assert_close(gradients[2:], gradients[:2], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(repeated.state_dict(), plain.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("stats", KINDS, ids=str)
def test_every_kind_keeps_half_parameters_and_float32_statistics(stats):
    layer = bn.BatchNorm2d(3, stats=stats).to(torch.bfloat16)
    y = layer(images(dtype=torch.bfloat16), **arguments_for(stats))
    assert y.dtype == torch.bfloat16
    assert layer.running_mean.dtype == torch.float32


@pytest.mark.parametrize("stats", [S.Ghost(2), S.Renorm(), S.Domains(2)], ids=str)
def test_lean_gradients_are_equal_to_the_last_bit(stats):
    gradients = []
    for lean in (False, True):
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            bn.BatchNorm2d(3, stats=stats, activation="relu"), torch.nn.Conv2d(3, 2, 3)
        )
        x = images().requires_grad_()
        norm, conv = model
        with bn.lean() if lean else torch.enable_grad():
            loss = conv(norm(x, **arguments_for(stats))).square().sum()
        loss.backward()
        gradients.append([x.grad, *(p.grad for p in model.parameters())])
    for kept, computed in zip(*gradients, strict=True):
        assert torch.equal(kept, computed)


def test_skipped_batches_leave_no_trace_in_any_part():
    layer = bn.BatchNorm1d(2, stats=S.Ghost(2), nonfinite="skip")
    x = torch.randn(6, 2)
    x[3, 1] = torch.nan
    layer(x)
    alone = bn.BatchNorm1d(2, stats=S.Ghost(2))
    alone(torch.cat((x[:2], x[4:])))
    torch.testing.assert_close(layer.state_dict(), alone.state_dict())
    refusing = bn.BatchNorm1d(2, stats=S.Ghost(2), nonfinite="raise")
    with pytest.raises(FloatingPointError, match="got NaN or infinity in 1 of 6"):
        refusing(x)
    assert refusing.num_batches_tracked == 0


def test_a_last_virtual_batch_of_one_value_is_merged_wherever_the_channels_are():
    x = torch.randn(5, 3, dtype=torch.float64)
    rows, sequences = (
        bn.BatchNorm1d(3, stats=S.Ghost(2, "keep"), dtype=torch.float64, channel_dim=dim) for dim in (1, -1)
    )
    torch.testing.assert_close(sequences(x[:, None]).squeeze(1), rows(x))
    assert sequences.num_batches_tracked == rows.num_batches_tracked == 2


def test_one_mask_for_all_samples_goes_with_a_domain_for_each():
    layer, twin = (bn.BatchNorm1d(3, stats=S.Domains(2), dtype=torch.float64) for _ in range(2))
    x, mask = torch.randn(6, 3, 4, dtype=torch.float64), torch.tensor([[True, True, False, True]])
    domain = torch.tensor([1, 0, 1, 1, 0, 0])
    y = layer(x, mask=mask, domain=domain)
    torch.testing.assert_close(y, twin(x, mask=mask.expand(6, 4), domain=domain))


@pytest.mark.parametrize("number", [np.int64(1), torch.tensor(1), True])
def test_a_domain_or_step_is_a_whole_number_of_any_kind(number):
    kinds = ("domain", S.Domains(2)), ("domain", S.Domains(2) + S.Renorm()), ("step", S.PerStep(2))
    for name, stats in kinds:
        layer = bn.BatchNorm1d(2, stats=stats)
        layer(torch.randn(4, 2), **{name: number})
        assert layer.num_batches_tracked.tolist() == [0, 1]


def test_another_kind_of_statistics_is_not_set_but_converted_to():
    layer = bn.BatchNorm1d(3)
    found = r"stats of layer BatchNorm1d \(num_features 3\) expected to stay, got Frozen\(affine=False\)"
    with pytest.raises(AttributeError, match=found):
        layer.stats = S.Frozen()
    assert layer.stats == S.Batch()
    assert bn.convert(layer, S.Frozen())[0].stats == S.Frozen()
