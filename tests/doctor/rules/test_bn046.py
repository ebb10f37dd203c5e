import pytest
from torch import nn

from batchnorm.doctor import diagnose
from tests.doctor.rules.test_bn023 import Activated


class Pair(nn.Module):
    """A convolution and its batch norm, in an arrangement."""

    def __init__(self, arrangement):
        super().__init__()
        self.arrangement = arrangement
        self.conv = nn.Conv2d(4, 4, 3, padding=1)
        if arrangement in ("transposed", "grouped transposed"):
            self.conv = nn.ConvTranspose2d(4, 4, 3, groups=2 if "grouped" in arrangement else 1)
        self.norm = nn.BatchNorm2d(4, track_running_stats=arrangement != "untracked")
        self.after = nn.Conv2d(4, 4, 3, padding=1 if arrangement == "before padding" else 0)

    def forward(self, x):
        if self.arrangement == "shared convolution":
            return self.norm(self.conv(x)) + self.conv(x)
        if self.arrangement == "other user":
            y = self.conv(x)
            return self.norm(y) + y
        if self.arrangement == "pair twice":
            return self.norm(self.conv(self.norm(self.conv(x))))
        if self.arrangement == "addition":
            return self.norm(self.conv(x) + x)
        if self.arrangement == "before padding":
            return self.after(self.norm(x.relu()))
        return self.norm(self.conv(x)).relu()


ARRANGEMENTS = (
    "shared convolution",
    "other user",
    "pair twice",
    "addition",
    "before padding",
    "transposed",
    "grouped transposed",
    "untracked",
)


@pytest.mark.parametrize("arrangement", ARRANGEMENTS)
def test_fires_on(arrangement, whole):
    report = diagnose(Pair(arrangement).eval(), goal="fold", rules=["BN046"])
    assert report.codes == ("BN046",)
    whole(report)


def test_fires_on_a_layer_of_unknown_class():
    report = diagnose(nn.Sequential(nn.Conv2d(1, 3, 3), Activated(3), nn.ReLU()).eval(), goal="fold")
    assert report.codes == ("BN023", "BN046")


def test_fires_in_training_mode(whole):
    whole(diagnose(Pair("plain"), goal="fold"))


def test_fires_on_what_cannot_be_traced(whole):
    class Branching(Pair):
        def forward(self, x):
            return super().forward(x * float(x.sum()))

    whole(diagnose(Branching("plain").eval(), goal="fold"))


def test_fires_and_calls_what_cannot_be_traced_a_module():
    class Branching(Pair):
        def forward(self, x):
            return super().forward(x * float(x.sum()))

    report = diagnose(nn.Sequential(Branching("plain"), nn.ReLU()).eval(), goal="fold")
    assert report.findings[0].message.startswith("The forward of module 0 cannot be traced")


def test_is_silent_on_the_plain_pair():
    assert diagnose(Pair("plain").eval(), goal="fold").findings == ()


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_is_silent_on_a_grouped_convolution_and_padding_that_repeats(mode):
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, groups=2),
        nn.BatchNorm2d(4),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode=mode),
    )
    assert diagnose(model.eval(), goal="fold").findings == ()


def test_is_silent_if_nobody_folds():
    assert "BN046" not in diagnose(Pair("shared convolution").eval()).codes
