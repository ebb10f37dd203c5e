import collections

import pytest
import torch
from torch import nn

from batchnorm.surgery.feed import Feed

Pair = collections.namedtuple("Pair", "x y")


class Recorder(nn.Module):
    def forward(self, x):
        self.seen = x


def sizes(feed):
    return [size for _, size in feed]


@pytest.mark.parametrize(
    "batch",
    [
        torch.zeros(3, 2),
        (torch.zeros(3, 2), torch.ones(3)),
        [torch.zeros(3, 2), "name"],
        {"x": torch.zeros(3, 2), "n": 1},
        Pair(torch.zeros(3, 2), torch.ones(5)),
        {"inputs": [{"x": torch.zeros(3)}]},
    ],
)
def test_samples_are_those_of_the_first_tensor(batch):
    assert sizes(Feed([batch])) == [3]


@pytest.mark.parametrize("batch", [torch.tensor(1.0), "text", {}, 5])
def test_a_batch_without_a_countable_tensor_is_one_sample(batch):
    assert sizes(Feed([batch])) == [1]


@pytest.mark.parametrize(("samples", "batches", "taken"), [
    (None, None, 5), (1, None, 1), (4, None, 1), (5, None, 2), (100, None, 5), (None, 3, 3), (9, 2, 2),
])  # fmt: skip
def test_limits_end_after_a_whole_batch_and_ask_for_no_more(samples, batches, taken):
    asked = []
    loader = (asked.append(n) or torch.zeros(4, 2) for n in range(5))
    assert sizes(Feed(loader, samples=samples, batches=batches)) == [4] * taken
    assert len(asked) == taken


def test_tensors_move_wherever_they_are_in_a_batch():
    x = torch.zeros(2)
    for batch in (x, (x, 1), [x], {"x": x}, Pair(x, [x])):
        ((moved, _),) = Feed([batch], device="meta")
        assert type(moved) is type(batch)
        leaf = moved
        while not isinstance(leaf, torch.Tensor):
            leaf = leaf["x"] if isinstance(leaf, dict) else leaf[0]
        assert leaf.device.type == "meta"
    ((moved, _),) = Feed([Pair(x, [x])], device="meta")
    assert moved.y[0].device.type == "meta"


@pytest.mark.parametrize("device", [None, "cpu"])
def test_what_a_forward_writes_into_its_input_the_loader_does_not_see(device):
    x = torch.zeros(2)
    loader = [x, (x, 1), [x], {"x": x}, Pair(x, [x])]
    for batch, _ in Feed(loader, device=device):
        leaf = batch
        while not isinstance(leaf, torch.Tensor):
            leaf = leaf["x"] if isinstance(leaf, dict) else leaf[0]
        leaf.add_(1)
    assert not x.any()


def test_a_batch_type_of_another_library_moves_itself():
    class Foreign:
        def to(self, device):
            return f"on {device}"

    assert [batch for batch, _ in Feed([Foreign()], device="meta")] == ["on meta"]


@pytest.mark.parametrize("batch", [torch.ones(2), (torch.ones(2), 3), [torch.ones(2)]])
def test_the_model_gets_the_tensor_at_the_head(batch):
    model = Recorder()
    Feed([]).forward(model, batch)
    assert torch.equal(model.seen, torch.ones(2))


@pytest.mark.parametrize("batch", [{"x": torch.ones(2)}, ({"x": torch.ones(2)}, torch.zeros(2))])
def test_the_model_gets_a_dict_as_its_arguments(batch):
    given = Feed([]).forward(lambda *, x: x + 1, batch)
    assert torch.equal(given, torch.full((2,), 2.0))


def test_forward_fn_gets_the_batch_as_it_is():
    seen = []
    Feed([], forward_fn=lambda model, batch: seen.append((model, batch))).forward("model", {"x": 1})
    assert seen == [("model", {"x": 1})]


@pytest.mark.parametrize(("batch", "kind"), [(1, "int"), (("a",), "tuple"), ([], "list")])
def test_another_kind_of_batch_needs_forward_fn(batch, kind):
    with pytest.raises(
        ValueError, match=f"^recalibrate: loader expected .* got {kind}; forward_fn="
    ) as caught:
        Feed([]).forward(Recorder(), batch)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["samples", "batches"])
@pytest.mark.parametrize("limit", [0, -3, 2.5, "3"])
def test_a_limit_that_is_no_number_of_batches_is_refused(name, limit):
    words = f"recalibrate: {name} expected a whole number of 1 or more, got {limit!r}"
    with pytest.raises(ValueError, match=words):
        Feed([], **{name: limit})


def test_only_an_iterator_cannot_be_passed_over_again():
    Feed([1]).expect_repeatable()
    Feed(range(3)).expect_repeatable()

    class Workers:
        def __iter__(self):
            pytest.fail("asking starts worker processes")

    Feed(Workers()).expect_repeatable()
    with pytest.raises(ValueError, match="a one-time generator"):
        Feed(x for x in [1]).expect_repeatable()
