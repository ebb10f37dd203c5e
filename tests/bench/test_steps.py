import pytest
import torch

from batchnorm.bench.cases import CASES, DTYPES, make_problem
from batchnorm.bench.steps import in_turn, make_peer, make_step, our_layer

RANKS = [((6, 3), "contiguous"), ((4, 3, 5), "contiguous")]
RANKS += [(shape, "contiguous") for shape in ((4, 3, 5, 6), (2, 3, 4, 2, 3))]
RANKS += [(shape, "channels_last") for shape in ((4, 3, 5, 6), (2, 3, 4, 2, 3))]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("shape", "layout"), RANKS)
def test_ours_and_torchs_step_compute_the_same(case, shape, layout):
    problem = make_problem(CASES[case], shape, "float64", layout, seed=1)
    ours = make_step(problem, our_layer(problem, "auto"))()
    torchs = make_peer("torch", problem)()
    assert len(ours) == (1 if not CASES[case].backward else 5 if CASES[case].residual else 4)
    for mine, theirs in zip(ours, torchs, strict=True):
        torch.testing.assert_close(mine, theirs)
    assert ours[0].requires_grad == CASES[case].training


def test_steps_are_called_in_turn():
    called = []
    step = in_turn([lambda: called.append(1), lambda: called.append(2)])
    for _ in range(3):
        step()
    assert called == [1, 2, 1]


@pytest.mark.parametrize("peer", ["torch", "inplace", "copy"])
def test_copies_of_a_problem_hold_the_same_values_in_memory_of_their_own(peer):
    problem = make_problem(CASES["add+relu"], (4, 3, 5, 6), "float32", "channels_last", seed=1)
    other = problem.copy()
    for name in ("x", "residual", "grad_output"):
        mine, copied = getattr(problem, name), getattr(other, name)
        assert torch.equal(mine, copied)
        assert mine.data_ptr() != copied.data_ptr()
        assert mine.requires_grad == copied.requires_grad
        assert mine.stride() == copied.stride()
    step = make_peer(peer, problem, other)
    for mine, copied in zip(step(), step(), strict=True):
        assert mine.data_ptr() != copied.data_ptr()
        torch.testing.assert_close(mine, copied)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_a_problem_has_its_dtype_and_layout_and_parameters_of_float32_at_least(dtype, layout):
    problem = make_problem(CASES["add+relu"], (4, 3, 5, 6), dtype, layout, seed=1)
    memory_format = torch.channels_last if layout == "channels_last" else torch.contiguous_format
    for tensor in (problem.x, problem.residual, problem.grad_output):
        assert tensor.dtype == DTYPES[dtype]
        assert tensor.is_contiguous(memory_format=memory_format)
    assert problem.weight.dtype == (torch.float64 if dtype == "float64" else torch.float32)
    make_peer("torch", problem)()  # torch takes float32 parameters beside half data


def test_the_same_seed_draws_the_same_tensors():
    first, again, other = (make_problem(CASES["relu"], (6, 3), "float32", "contiguous", s) for s in (1, 1, 2))
    assert torch.equal(first.x, again.x)
    assert torch.equal(first.running_var, again.running_var)
    assert not torch.equal(first.x, other.x)


@pytest.mark.parametrize(("case", "tensors"), [("forward", 3), ("add+relu", 11), ("predict", 2)])
def test_the_copy_reads_and_writes_the_cases_bytes(case, tensors):
    problem = make_problem(CASES[case], (4, 3, 4, 4), "bfloat16", "contiguous", seed=1)
    assert problem.bytes_moved == tensors * 4 * 3 * 4 * 4 * 2
    (target,) = make_peer("copy", problem)()
    assert 2 * target.nbytes == problem.bytes_moved
    assert (target == 1).all()


def test_the_compiled_peer_is_torchs_modules_compiled_for_one_shape(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **how: compiled.append((module, how)))
    problem = make_problem(CASES["relu"], (6, 3), "float32", "contiguous", seed=1)
    torch.testing.assert_close(make_peer("compile", problem)(), make_peer("torch", problem)())
    [(module, how)] = compiled
    assert module.activation == "relu"
    assert how == {"fullgraph": True, "dynamic": False}
