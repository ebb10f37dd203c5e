import copy

from batchnorm.doctor import diagnose
from tests.doctor.networks import trained


def test_fires_on_a_kept_state_dict(whole):
    model = trained()
    report = diagnose(model, snapshot=model.state_dict())
    assert report.codes == ("BN010",)
    whole(report)


def test_is_silent_on_a_copy():
    model = trained()
    assert diagnose(model, snapshot=copy.deepcopy(model.state_dict())).findings == ()
