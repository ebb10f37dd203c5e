"""DD, SY and B1 in two real processes that talk to each other; what rank 0's doctor says.

Not here, since nothing of a network shows it: NU-08, what the counter costs a CUDA step; NU-09, the number of
dimensions that torch's C++ function refuses and its Python one does not.
"""

from unittest import mock

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from batchnorm import recalibrate
from batchnorm.doctor import diagnose
from tests.doctor.cases.case import case, trap
from tests.doctor.networks import batches, dense_net, rows, trained
from tests.processes import in_processes

RANKS = 2


def of_rank_0(function):
    return in_processes(RANKS, function)[0]


def real_and_fake(model, batch):
    x, _ = batch
    (model(x).sum() - model(x + 0.1).sum()).backward()


def counted(wrapper):
    """A broadcast as in other versions of torch and on other backends: it raises the buffers' versions."""
    for buffer in wrapper.buffers():
        buffer.add_(0)


def twice_before_a_backward(rank, model=trained, data=batches, step=real_and_fake):
    wrapper = DistributedDataParallel(model())
    return diagnose(wrapper, data(), step_fn=step, accumulation=2).findings


def twice_where_versions_are_counted(rank):
    with mock.patch.object(DistributedDataParallel, "_sync_buffers", counted):
        return twice_before_a_backward(rank)


def critic_step(model, x):
    (model(x).sum() - model(x + 0.1).sum()).backward()


def critic(rank):
    return twice_before_a_backward(rank, dense_net, rows, critic_step)


@case("DD-03", "BN044")
def two_forwards_and_a_backward_under_the_wrapper():
    return of_rank_0(twice_before_a_backward)


@case("DD-04", "BN044")
def the_same_where_the_broadcast_is_counted():
    return of_rank_0(twice_where_versions_are_counted)


@case("DD-08", "BN044")
def a_critic_called_twice():
    return of_rank_0(critic)


def precise(rank):
    model = dense_net()
    recalibrate(model, [row + rank for row in rows(4 - 2 * rank, 60, seed=rank)])
    return diagnose(model).findings


@case("DD-05", "BN043")
def statistics_measured_on_each_rank_alone():
    return of_rank_0(precise)


def inner(rank):
    wrapper = DistributedDataParallel(dense_net())
    for row in rows():
        wrapper(row + 20 * rank)
    return diagnose(wrapper.module.eval()).findings


@case("DD-07", "BN043")
def an_evaluation_through_the_inner_module():
    return of_rank_0(inner)


def learner(rank):
    model = dense_net()
    for row in rows():
        model(row + 10 * rank)
    return diagnose(model).findings


@case("DD-09", "BN043")
def learners_that_share_gradients_alone():
    return of_rank_0(learner)


def same_data(rank):
    model = dense_net()
    for row in rows(64, 60, seed=rank):
        model(row)
    return diagnose(model, rows(64)).findings


@trap("DD-09")
def learners_with_shuffled_data():
    return of_rank_0(same_data)


def uneven(rank):
    return diagnose(dense_net(), [row + 4 * rank for row in rows(16 + 32 * rank)]).findings


@case("SY-03", "BN045")
def counts_of_one_and_three():
    return of_rank_0(uneven)


def empty(rank):
    model = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2))
    return diagnose(model, rows(32 if rank else 0)).findings


@case("SY-05", "BN045")
def a_rank_without_rows():
    return of_rank_0(empty)


def no_boxes(rank):
    model = nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1))
    generator = torch.Generator().manual_seed(0)
    boxes = [torch.randn(0 if rank else 16, 4, 3, 3, generator=generator) for _ in range(8)]
    return diagnose(model, boxes).findings


@case("B1-10", "BN045")
def a_detector_without_boxes():
    return of_rank_0(no_boxes)


def converted(rank):
    model = nn.SyncBatchNorm.convert_sync_batchnorm(trained())
    return diagnose(model, ranks=RANKS).findings


@case("SY-08", "BN042")
def synchronized_layers_that_nothing_turns_back():
    return of_rank_0(converted)
