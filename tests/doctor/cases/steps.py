"""MF and AP: several forwards a step, and where batch statistics are themselves the fault."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from batchnorm.doctor import diagnose
from tests.doctor.cases.case import case, trap
from tests.doctor.cases.evaluation import forward
from tests.doctor.networks import batches, dense_net, rows, trained
from tests.doctor.rules.test_bn020 import Twice


class Checkpointed(nn.Module):
    def __init__(self, parts):
        super().__init__()
        self.body, self.parts = trained(), parts

    def forward(self, x):
        for block in (self.body[:6], self.body[6:])[: self.parts]:
            x = checkpoint(block, x.requires_grad_(), use_reentrant=self.parts == 1)
        return x if self.parts == 2 else self.body[6:](x)


def steps(*inputs):
    """A step with a forward for each change of the input."""

    def run(model, batch):
        x, y = batch
        sum(nn.functional.cross_entropy(model(change(x)), y) for change in inputs).backward()

    return run


@case("MF-01", "BN037")
def activation_checkpointing():
    return diagnose(Checkpointed(1), batches())


@case("MF-08", "BN037")
def memory_saving_blocks():
    return diagnose(Checkpointed(2), batches())


@case("SY-15", "BN037")
def recomputation_in_another_implementation():
    return diagnose(Checkpointed(2), batches(16))


@case("MF-03", "BN037")
def a_two_step_optimizer():
    return diagnose(trained(), batches(), step_fn=steps(lambda x: x, lambda x: x * 1.01))


@case("MF-04", "BN039")
def accumulation_expected_to_act_like_a_large_batch():
    return diagnose(forward(dense_net(), rows(8, 60)), rows(8), accumulation=8)


@case("MF-05", "BN020", "BN038")
def one_head_for_several_levels():
    return diagnose(Twice(10.0), rows(64))


@case("MF-06", "BN038", "BN037")
def labelled_and_strongly_augmented():
    step = steps(lambda x: x, lambda x: x * 4 + 3)
    return diagnose(trained(), batches(), step_fn=step, accumulation=2)


class Recurrent(nn.Module):
    """A hidden state that grows from nothing."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cell, self.norm = nn.Linear(8, 4), nn.BatchNorm1d(4)

    def forward(self, x):
        state = torch.zeros(len(x), 4)
        for number in range(4):
            state = state + self.norm(self.cell(torch.cat([x * (1 + 2 * number), state], 1)))
        return state


@case("MF-09", "BN020")
def recurrence_with_one_buffer():
    return diagnose(Recurrent(), rows(64))


@case("AP-01", "BN038", "BN037")
def real_and_fake_in_separate_batches():
    step = steps(lambda x: x, lambda x: x * 0.2 + 4)
    return diagnose(trained(), batches(), step_fn=step, accumulation=2)


@trap("AP-02")
def a_generator_in_prediction_mode():
    return diagnose(trained().eval(), batches())


@case("AP-04", "BN040")
def query_and_key_in_one_batch():
    return diagnose(trained(), batches(), independence="contrastive")


@trap("AP-05")
def a_queue_method_is_not_told_to_synchronize():
    model = forward(dense_net(), rows(16, 60)).eval()
    return diagnose(model, rows(16), ranks=8, independence="contrastive")


@case("AP-06", "BN037", "BN038")
def ten_attack_passes_and_a_clean_one():
    step = steps(*[lambda x: x + 0.1] * 10, lambda x: x)
    return diagnose(trained(), batches(), step_fn=step)


@case("AP-07", "BN038", "BN037")
def clean_and_adversarial_halves():
    return diagnose(trained(), batches(), step_fn=steps(lambda x: x, lambda x: -5 * x + 2), accumulation=2)


@trap("AP-09")
def transductive_evaluation_allowed_by_name():
    return diagnose(trained(), batches(8), predict_fn=lambda m, b: m(b[0]), ignore=["BN032"])


@case("AP-10", "BN040")
def a_model_for_private_training():
    return diagnose(trained(), independence="private")


@case("TR-04", "BN040")
def a_gradient_penalty():
    return diagnose(dense_net(), rows(4), independence="penalty")


@case("AP-11", "BN024")
def automatic_replacement_by_group_norm():
    model = nn.Sequential(nn.Linear(4, 4), nn.GroupNorm(4, 4), nn.Linear(4, 1))
    return diagnose(model, rows())


@case("AP-14", "BN030")
def statistics_for_a_new_domain():
    model = forward(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), rows(32, 60))
    return diagnose(model, rows(32), target_loader=[row * 2 + 2 for row in rows(64, seed=3)])


@trap("AP-14")
def held_out_rows_of_the_same_domain():
    model = forward(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 2)), rows(32, 60))
    return diagnose(model, rows(32), target_loader=rows(64, seed=3))


@case("AP-15", "BN038", "BN030", "BN020")
def two_domains_in_one_buffer():
    return diagnose(Twice(10.0), rows(64))


@case("AP-16", "BN032", "BN037")
def a_batch_size_finder_that_moved_statistics():
    def find(model):
        for _ in range(20):
            model(batches(8)[0][0])

    return diagnose(trained(), batches(), evaluate_fn=find)
