import contextlib
import copy
import gc
import pickle
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

import batchnorm as bn
from batchnorm.models import build
from batchnorm.ops import ACTIVATIONS, has_native

BACKENDS = [
    "eager",
    pytest.param("native", marks=pytest.mark.skipif(not has_native("cpu"), reason="no kernels")),
]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def assert_same_gradients(model, forward, context=bn.lean):
    """The loss and all gradients of ``forward(model)`` are equal to the last bit inside ``context``."""
    plain, other = copy.deepcopy(model), copy.deepcopy(model)
    loss = forward(plain)
    with context():
        lean_loss = forward(other)
    assert torch.equal(loss, lean_loss)
    for expected, got in zip(gradients(plain, loss), gradients(other, lean_loss), strict=True):
        assert torch.equal(expected, got)


class Kept:
    """Saved-tensor hooks that count the bytes of every storage once."""

    def __init__(self):
        self.storages = {}

    def pack(self, tensor):
        self.storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    def bytes(self, model):
        known = {t.untyped_storage()._cdata for t in (*model.parameters(), *model.buffers())}
        return sum(storage.nbytes() for key, storage in self.storages.items() if key not in known)


def kept_bytes(model, forward, context):
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor), context():
        forward(model)
    return kept.bytes(model)


def chain(activation="relu", backend="auto", **settings):
    return nn.Sequential(
        nn.Conv2d(2, 8, 3),
        bn.BatchNorm2d(8, activation=activation, backend=backend, **settings),
        nn.Conv2d(8, 4, 3),
    )


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_gradients_are_equal_to_the_last_bit(activation, backend, layout):
    x = torch.randn(4, 2, 9, 9).contiguous(memory_format=layout)
    assert_same_gradients(chain(activation, backend), lambda model: model(x).square().sum())


@pytest.mark.parametrize("name", ["lenet", "resnet20"])
@pytest.mark.parametrize("training", [True, False])
def test_networks_have_the_same_gradients(name, training):
    x = torch.randn(8, 1, 28, 28)
    model = build(name, norm="batch", seed=0).train(training)
    assert_same_gradients(model, lambda model: model(x).square().sum())


def test_a_residual_network_keeps_less_than_three_fifths_of_torch():
    x = torch.randn(4, 1, 28, 28)
    plain = kept_bytes(build("resnet20", norm="torch"), lambda m: m(x), torch.enable_grad)
    lean = kept_bytes(build("resnet20", norm="batch"), lambda m: m(x), bn.lean)
    assert lean <= 0.6 * plain


def test_the_output_of_a_layer_is_not_kept():
    x = torch.randn(4, 2, 9, 9)
    model = chain()
    bytes_of_output = 4 * 8 * 7 * 7 * 4
    plain = kept_bytes(model, lambda m: m(x), torch.enable_grad)
    assert plain - kept_bytes(model, lambda m: m(x), bn.lean) == bytes_of_output


def test_a_lean_model_is_lean_in_each_forward_and_outside_it_nothing_is():
    x = torch.randn(4, 2, 9, 9)
    plain, lean = chain(), bn.lean(bn.lean(chain()))
    first, second = (kept_bytes(lean, lambda m: m(x), torch.enable_grad) for _ in range(2))
    assert first == second < kept_bytes(plain, lambda m: m(x), torch.enable_grad)
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_a_lean_model_can_be_copied_and_pickled():
    model = bn.lean(chain())
    x = torch.randn(4, 2, 9, 9)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert kept_bytes(other, lambda m: m(x), torch.enable_grad) == kept_bytes(
            model, lambda m: m(x), torch.enable_grad
        )


def test_views_and_several_consumers_of_one_output():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = bn.BatchNorm2d(2, activation="tanh")
            self.conv, self.linear = nn.Conv2d(2, 3, 3), nn.Linear(50, 3)

        def forward(self, x):
            y = self.norm(x)
            return self.conv(y).sum() + self.linear(y.flatten(1)).sum() + (y[:, :1] * y[:, 1:]).sum()

    assert_same_gradients(Net(), lambda model: model(torch.ones(4, 2, 5, 5).cumsum(2)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_imaginary_part_of_a_conjugate_is_no_view_of_the_values(backend):
    model = nn.ModuleList([bn.BatchNorm1d(4, backend=backend), nn.Linear(2, 2, bias=False)])

    def forward(model):
        y = torch.view_as_complex(model[0](torch.arange(24.0).view(6, 4).sin()).view(6, 2, 2))
        return (y.conj().imag * model[1].weight[0]).sum() + (y.conj() * model[1].weight[1]).real.sum()

    assert_same_gradients(model, forward)


@pytest.mark.parametrize(
    "in_place", [torch.relu_, torch.sigmoid_, lambda y: y.add_(1), lambda y: y[0].mul_(2)]
)
def test_an_output_modified_in_place_is_kept_whole(in_place):
    x = torch.randn(4, 2, 9, 9)

    def forward(model):
        y = model[1](model[0](x))
        in_place(y)
        return model[2](y).square().sum()

    assert_same_gradients(chain(activation=None), forward)


def test_an_output_modified_after_it_was_saved_is_refused():
    model = chain()
    with bn.lean():
        y = model[1](model[0](torch.randn(4, 2, 9, 9)))
        loss = model[2](y).sum()
    y.detach().add_(1)
    with pytest.raises(
        RuntimeError, match=r"lean: an output of batch_norm of shape .* was modified by an in-place"
    ):
        loss.backward()


@pytest.mark.parametrize("which", ["input", "weight"])
def test_what_an_output_is_computed_from_must_not_change(which):
    norm, conv = bn.BatchNorm2d(2), nn.Conv2d(2, 3, 3)
    x = torch.randn(4, 2, 5, 5, requires_grad=True).clone()
    with bn.lean():
        loss = conv(norm(x)).sum()
    (x if which == "input" else norm.weight).detach().add_(1)
    with pytest.raises(RuntimeError, match=r"lean: a tensor of shape .* was modified by an in-place"):
        loss.backward()


def test_tensors_of_other_operations_are_guarded_as_without_it():
    x = torch.randn(4, requires_grad=True)
    factor = torch.ones(4)
    with bn.lean():
        loss = (x * factor).sum()
    factor.add_(1)
    with pytest.raises(RuntimeError, match=r"lean: a tensor of shape .* expected version 0, got 1"):
        loss.backward()


def test_autocast():
    x = torch.randn(4, 2, 9, 9)

    def forward(model):
        with torch.autocast("cpu", torch.bfloat16):
            return model(x).float().square().sum()

    assert_same_gradients(chain(), forward)


@pytest.mark.parametrize("inside", [True, False])
def test_activation_checkpointing(inside):
    x = torch.randn(4, 2, 9, 9, requires_grad=True)

    def forward(model):
        if inside:
            bn.lean(model)
        return checkpoint(model, x, use_reentrant=False).square().sum()

    assert_same_gradients(chain(), forward)


def test_what_is_not_ours_goes_to_the_hooks_around():
    model, x = chain(), torch.randn(4, 2, 9, 9)

    def moved(model):
        with torch.autograd.graph.save_on_cpu():
            return model(x).square().sum()

    assert_same_gradients(model, moved)
    kept = Kept()
    with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor), bn.lean():
        model(x)
    assert x.untyped_storage()._cdata in kept.storages


def test_hooks_inside_are_left_alone():
    model, x = chain(), torch.randn(4, 2, 9, 9)
    kept = Kept()
    with bn.lean(), torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda tensor: tensor):
        model(x).sum().backward()
    assert kept.bytes(model) == kept_bytes(model, lambda m: m(x).sum(), torch.enable_grad)


def test_backward_twice_and_second_derivatives():
    model, x = chain(activation="tanh"), torch.randn(4, 2, 9, 9, requires_grad=True)

    def forward(model):
        loss = model(x).square().sum()
        (grad,) = torch.autograd.grad(loss, x, create_graph=True)
        loss.backward(retain_graph=True)
        return loss + grad.square().sum()

    assert_same_gradients(model, forward)


def test_an_exception_in_forward_leaves_no_hooks():
    class Fails(nn.Module):
        def forward(self, x):
            raise KeyError("no")

    model = bn.lean(nn.Sequential(chain(), Fails()))
    with pytest.raises(KeyError):
        model(torch.randn(4, 2, 9, 9))
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    assert bn.lean(chain())(torch.randn(4, 2, 9, 9)).shape == (4, 4, 5, 5)


class Interrupted(nn.Module):
    """Ctrl-C the first time."""

    def __init__(self, error):
        super().__init__()
        self.error = error

    def forward(self, x):
        error, self.error = self.error, None
        if error is not None:
            raise error
        return x


def nothing():
    return contextlib.nullcontext()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("around", [nothing, torch.autograd.graph.save_on_cpu, bn.lean])
def test_an_interrupt_leaves_no_hooks_after_the_next_forward(around, error):
    x = torch.randn(4, 2, 9, 9)
    model = bn.lean(nn.Sequential(chain(), bn.lean(nn.Sequential(bn.BatchNorm2d(4), Interrupted(error)))))
    with pytest.raises(error), around():
        model(x)
    lean = kept_bytes(model, lambda m: m(x), torch.enable_grad)
    model(x)
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None
    assert kept_bytes(model, lambda m: m(x), torch.enable_grad) == lean
    assert torch.func.grad(lambda x: x.sin().sum())(x).shape == x.shape


def test_a_context_around_an_interrupt_leaves_no_hooks():
    with pytest.raises(KeyboardInterrupt), bn.lean():
        bn.lean(Interrupted(KeyboardInterrupt))(torch.randn(4))
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_a_lean_model_that_calls_itself_is_lean_throughout():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = chain()

        def forward(self, x, again=True):
            return (self(x, again=False) if again else 0) + self.body(x)

    x, plain = torch.randn(4, 2, 9, 9), Twice()
    assert kept_bytes(bn.lean(copy.deepcopy(plain)), lambda m: m(x), torch.enable_grad) == kept_bytes(
        plain, lambda m: m(x), bn.lean
    )


def test_nothing_outlives_a_step():
    model = bn.lean(build("resnet20", norm="batch", seed=0))
    outputs = []

    def watch(module, inputs, output):
        outputs.append(weakref.ref(output))

    for layer in model.modules():
        if isinstance(layer, bn.BatchNorm2d):
            layer.register_forward_hook(watch)
    gc.collect()
    gc.disable()
    try:
        loss = model(torch.randn(2, 1, 28, 28)).sum()
        alive = sum(output() is not None for output in outputs)
        assert alive <= len(outputs) // 4
        loss.backward()
        del loss
        assert all(output() is None for output in outputs)
    finally:
        gc.enable()


@pytest.mark.parametrize("enclosed", [False, True])
def test_nothing_outlives_a_forward_without_a_backward(enclosed):
    # a ReLU saves its own output
    model = nn.Sequential(nn.Conv2d(2, 4, 3), bn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    outputs = []
    for module in model:
        module.register_forward_hook(lambda module, args, output: outputs.append(weakref.ref(output)))
    if enclosed:
        with bn.lean():
            model(torch.randn(2, 2, 7, 7))
    else:
        bn.lean(model)(torch.randn(2, 2, 7, 7))
    gc.collect()
    assert len(outputs) == 4
    assert all(output() is None for output in outputs)


def test_a_context_may_be_entered_again_inside():
    model, x, context = chain(), torch.randn(4, 2, 9, 9), bn.lean()
    with context, context:
        loss = model(x).sum()
    loss.backward()
    assert torch._C._autograd._top_saved_tensors_default_hooks(False) is None


def test_a_context_may_be_entered_by_two_threads_at_once():
    context, packed = bn.lean(), []

    def enter():
        with context:
            pass

    def pack(tensor):
        packed.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), context:
        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        torch.randn(3, requires_grad=True).exp()
    assert len(packed) == 1


def test_layers_of_torch_are_kept_as_they_are():
    model = nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3))
    x = torch.randn(4, 2, 9, 9)
    assert_same_gradients(model, lambda m: m(x).square().sum())
    assert kept_bytes(model, lambda m: m(x), bn.lean) == kept_bytes(model, lambda m: m(x), torch.enable_grad)


# dynamo instantiates an autograd Function, which torch itself warns of
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_compiled_model_works():
    model, x = chain(), torch.randn(4, 2, 9, 9)
    compiled = torch.compile(bn.lean(copy.deepcopy(model)), backend="aot_eager")
    torch.testing.assert_close(compiled(x), model(x))


def test_a_model_that_is_none():
    with pytest.raises(TypeError, match=r"lean: model expected a torch.nn.Module, got str"):
        bn.lean("resnet20")


def test_distributed_data_parallel(tmp_path):
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/group", rank=0, world_size=1)
    try:
        x = torch.randn(4, 2, 9, 9)
        model = nn.parallel.DistributedDataParallel(chain())
        assert_same_gradients(model, lambda m: m(x).square().sum())
        inside = nn.parallel.DistributedDataParallel(bn.lean(copy.deepcopy(model.module)))
        expected = gradients(model, model(x).square().sum())
        assert all(map(torch.equal, expected, gradients(inside, inside(x).square().sum())))
    finally:
        torch.distributed.destroy_process_group()


def test_dropout_between_layers():
    x = torch.randn(4, 2, 9, 9)

    def forward(model):
        torch.manual_seed(0)
        return model[2](F.dropout(model[1](model[0](x)), 0.5)).square().sum()

    assert_same_gradients(chain(), forward)
