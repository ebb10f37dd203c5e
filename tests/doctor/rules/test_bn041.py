from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, dense_net, rows, trained


def test_fires_on_two_rows_on_each_of_eight_ranks(whole):
    report = diagnose(dense_net(), rows(2), ranks=8, rules=["BN041"])
    assert report.codes == ("BN041",)
    whole(report)


def test_fires_on_a_batch_split_over_replicas(whole):
    whole(diagnose(dense_net(), rows(32), replicas=4, rules=["BN041"]))


def test_is_silent_on_32_rows_a_rank():
    assert diagnose(dense_net(), rows(32), ranks=8).findings == ()


def test_is_silent_on_frozen_layers_and_on_one_device():
    model = trained()
    for name in ("1", "4", "7"):
        model.get_submodule(name).eval()
    assert diagnose(model, batches(4), ranks=8).findings == ()
    assert "BN041" not in diagnose(dense_net(), rows(2)).codes
