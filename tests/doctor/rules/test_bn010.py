import copy

import torch

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, trained


def test_fires_on_a_kept_state_dict(whole):
    model = trained()
    best = model.state_dict()
    before = best["1.running_mean"].clone()
    model(batches()[0][0])
    assert not torch.equal(best["1.running_mean"], before)
    report = diagnose(model, snapshot=best)
    assert report.codes == ("BN010",)
    whole(report)


def test_is_silent_on_a_copy():
    model = trained()
    assert diagnose(model, snapshot=copy.deepcopy(model.state_dict())).findings == ()
