"""Code that cannot be traced is named where it holds a batch norm, in the report and before a fold."""

import pytest
from torch import nn

from batchnorm.doctor import diagnose


class Choosy(nn.Module):
    """Its forward asks for a number."""

    def forward(self, x):
        return self.run(x * float(x.sum()))

    def run(self, x):
        return x


class Head(Choosy):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)

    def run(self, x):
        return self.norm(self.conv(x)).relu()


class Listed(Choosy):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList([nn.BatchNorm2d(4)])

    def run(self, x):
        return self.norms[0](x)


class Attention(Choosy):
    def __init__(self):
        super().__init__()
        self.query = nn.Linear(8, 8)

    def run(self, x):
        return self.query(x)


class Outer(Choosy):
    """Feeds a module, which begins with a batch norm, or not, with a convolution."""

    def __init__(self, inner):
        super().__init__()
        self.conv, self.inner = nn.Conv2d(4, 4, 1), inner

    def run(self, x):
        return self.inner(self.conv(x))


class Forked(nn.Module):
    """Goes one way or another by the values."""

    def __init__(self, other):
        super().__init__()
        self.conv, self.inner = nn.Conv2d(4, 4, 1), nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())
        self.other = other

    def forward(self, x):
        y = self.conv(x)
        if x.sum() > 0:
            return self.inner(y)
        return y if self.other else self.inner(y) + 1


class Single(nn.Sequential):
    """Cannot be copied."""

    def __deepcopy__(self, memo):
        raise TypeError("one of a kind")

    def __reduce_ex__(self, protocol):
        raise TypeError("one of a kind")


PAIR = (nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())


def summary(model):
    return str(diagnose(model)).splitlines()[-1]


@pytest.mark.parametrize("head", [Head, Listed])
def test_a_module_that_holds_a_batch_norm_is_named(head):
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), head())
    report = diagnose(model)
    assert report.unseen == {"2": "its code cannot be traced"}
    assert report.to_dict()["unseen"] == report.unseen
    assert summary(model).endswith("not looked into: 2 (its code cannot be traced)")


def test_the_whole_model_may_be_it():
    assert summary(Head()).endswith("not looked into: the model (its code cannot be traced)")


def test_a_model_that_cannot_be_copied_is_named():
    assert diagnose(Single(*PAIR)).unseen == {"": "its code cannot be traced"}


def test_lazy_parameters_are_the_reason():
    model = nn.Sequential(nn.LazyConv2d(4, 1), nn.BatchNorm2d(4), nn.ReLU())
    assert diagnose(model).unseen == {"": "it has lazy parameters"}


def test_a_module_without_batch_norm_makes_no_noise():
    report = diagnose(nn.Sequential(*PAIR, Attention()).eval(), goal="fold")
    assert (report.unseen, report.findings) == ({}, ())
    assert "not looked into" not in str(report)


def test_a_pair_in_code_that_is_traced_is_seen_whoever_calls_it():
    report = diagnose(Outer(nn.Sequential(*PAIR)).eval(), goal="fold")
    assert (report.unseen, report.findings) == ({}, ())


def test_a_fold_is_unsafe_where_a_module_that_is_not_traced_holds_the_convolution():
    report = diagnose(Outer(nn.Sequential(nn.BatchNorm2d(4), nn.ReLU())).eval(), goal="fold")
    assert report.unseen == {}
    assert [(f.code, f.severity, f.layer) for f in report.findings] == [("BN046", "error", None)]
    assert "The forward of Outer cannot be traced" in report.findings[0].message


def test_a_fold_names_only_modules_that_matter():
    model = nn.ModuleDict({"pair": nn.Sequential(*PAIR), "attention": Attention(), "head": Head()})
    messages = [f.message for f in diagnose(model.eval(), goal="fold").findings if f.code == "BN046"]
    assert len(messages) == 1
    assert messages[0].startswith("The forward of module head cannot be traced")


def test_without_batch_norm_there_is_nothing_to_fold():
    assert diagnose(Attention().eval(), goal="fold").findings == ()
    assert diagnose(Single(nn.Linear(4, 4), nn.ReLU()).eval(), goal="fold").findings == ()


def test_rules_that_look_at_no_graph_say_nothing_of_it():
    assert diagnose(Head(), rules=["BN012"]).unseen == {}


def test_a_checkpoint_has_no_code_to_look_into():
    assert diagnose(Head().state_dict()).unseen == {}


def test_a_module_that_goes_two_ways_is_named_where_they_differ():
    model = nn.Sequential(Forked(True), nn.ReLU())
    assert diagnose(model).unseen == {"0": "its code cannot be traced"}
    assert diagnose(model).findings == ()


def test_a_module_that_goes_two_ways_is_seen_where_they_agree():
    report = diagnose(nn.Sequential(Forked(False), nn.ReLU()))
    assert [(f.code, f.layer) for f in report.findings] == [("BN016", "0.inner.0")]
    assert report.unseen == {}


def test_a_fold_is_safe_on_two_ways_that_are_both_plain_pairs():
    assert diagnose(nn.Sequential(Forked(False), nn.ReLU()).eval(), goal="fold").findings == ()


def test_a_fold_is_unsafe_where_one_of_two_ways_is():
    class Added(Forked):
        def forward(self, x):
            y = self.conv(x)
            return self.inner(y) + y if x.sum() > 0 else self.inner(y)

    report = diagnose(nn.Sequential(Added(False), nn.ReLU()).eval(), goal="fold")
    assert [(f.code, f.layer) for f in report.findings] == [("BN046", "0.inner.0")]
    assert "layer 0.conv has 2 users" in report.findings[0].message
