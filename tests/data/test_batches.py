import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from batchnorm.data import Batches


def numbered(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose pixels say which image it is, up to 256 of them, and such labels."""
    labels = torch.arange(count)
    return labels.byte().view(count, 1, 1, 1).expand(count, 1, 2, 3).contiguous(), labels


def order(batches: Batches) -> list[int]:
    return [label for _, labels in batches for label in labels.tolist()]


@given(
    count=st.integers(1, 97),
    size=st.integers(1, 97),
    seed=st.none() | st.integers(0, 2**64),
    number=st.integers(0, 1000),
    drop_last=st.booleans(),
)
def test_an_epoch_has_each_image_once_in_batches_of_the_size_asked_for(
    count: int, size: int, seed: int | None, number: int, drop_last: bool
) -> None:
    size = min(size, count)
    batches = Batches(*numbered(count), size, seed=seed, drop_last=drop_last).epoch(number)
    sizes = [len(labels) for _, labels in batches]
    rest = [] if drop_last or count % size == 0 else [count % size]
    assert sizes == [size] * (count // size) + rest
    assert len(batches) == len(sizes)
    seen = order(batches)
    assert len(set(seen)) == len(seen) == sum(sizes)
    if not drop_last:
        assert sorted(seen) == list(range(count))


def test_images_and_labels_stay_together() -> None:
    for images, labels in Batches(*numbered(100), 7, seed=3):
        assert torch.equal((images[:, 0, 1, 2] * 255).round().long(), labels)


def test_bytes_become_their_255th_parts() -> None:
    images, labels = numbered(256)
    ((batch, _),) = Batches(images, labels, 256)
    assert batch.dtype == torch.float32
    assert batch.shape == images.shape
    assert batch[:, 0, 0, 0].tolist() == (torch.arange(256, dtype=torch.float64) / 255).float().tolist()
    assert (batch.min(), batch.max()) == (0, 1)
    assert torch.equal(images, numbered(256)[0])


def test_without_a_seed_images_keep_their_order() -> None:
    batches = Batches(*numbered(10), 4)
    assert order(batches) == order(batches.epoch(5)) == list(range(10))


def test_order_depends_on_seed_and_epoch_and_on_nothing_else() -> None:
    batches = Batches(*numbered(50), 8, seed=1)
    undisturbed = [order(batches.epoch(number)) for number in range(4)]

    torch.manual_seed(99)
    resumed = Batches(*numbered(50), 8, seed=1).epoch(3)
    next(iter(resumed))  # an unfinished pass leaves no trace
    assert order(resumed) == order(resumed) == undisturbed[3]
    assert order(Batches(*numbered(50), 16, seed=1).epoch(3)) == undisturbed[3]


def test_every_pair_of_seed_and_epoch_has_its_own_order() -> None:
    orders = {
        tuple(order(Batches(*numbered(50), 8, seed=seed).epoch(number)))
        for seed in range(8)
        for number in range(8)
    }
    assert len(orders) == 64


def test_making_batches_does_not_touch_torchs_own_generator() -> None:
    before = torch.get_rng_state()
    order(Batches(*numbered(50), 8, seed=1))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"batch_size": 0}, "batch_size expected 1 to 5, the images there are, got 0"),
        ({"batch_size": 6}, "batch_size expected 1 to 5, the images there are, got 6"),
        ({"seed": -1}, "seed expected 0 or more, got -1"),
        ({"number": -1}, "number expected 0 or more, got -1"),
        ({"labels": torch.arange(4)}, r"labels expected shape \(5,\), got \(4,\)"),
        (
            {"images": torch.zeros(5, 1, 2, 2)},
            r"images expected uint8 of shape \(N, C, H, W\), got torch.float32 of \(5, 1, 2, 2\)",
        ),
        (
            {"images": torch.zeros(5, 2, dtype=torch.uint8)},
            r"images expected uint8 of shape \(N, C, H, W\), got torch.uint8 of \(5, 2\)",
        ),
    ],
)
def test_misuse_is_named_in_one_line(change: dict[str, object], words: str) -> None:
    images, labels = numbered(5)
    arguments = {"images": images, "labels": labels, "batch_size": 2, **change}
    with pytest.raises(ValueError, match=f"^Batches: {words}$"):
        Batches(**arguments)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_order_is_the_same_on_a_gpu() -> None:
    batches = Batches(*numbered(50), 8, seed=1, device="cuda")
    assert all(images.is_cuda and labels.is_cuda for images, labels in batches)
    assert order(batches) == order(Batches(*numbered(50), 8, seed=1))
