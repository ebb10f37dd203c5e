import pytest
import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

from batchnorm.doctor import diagnose
from tests.doctor.networks import batches, fresh, trained

pytestmark = pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")

X = batches(4, 1)[0][0]


def onnx_model(training):
    onnx = pytest.importorskip("onnx", reason="needs the extra onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    names = ["x", "scale", "bias", "mean", "var"]
    outputs = ["y", "new_mean", "new_var"] if training else ["y"]
    node = helper.make_node(
        "BatchNormalization", names, outputs, name="norm", epsilon=1e-3, training_mode=int(training)
    )
    inputs = [helper.make_tensor_value_info(name, kind, None) for name in names]
    values = [helper.make_tensor_value_info(name, kind, None) for name in outputs]
    return helper.make_model(helper.make_graph([node], "g", inputs, values))


def test_fires_on_a_trace_in_training_mode(whole):
    traced = torch.jit.trace(trained(), X, check_trace=False).eval()
    report = diagnose(traced)
    assert report.codes == ("BN048",)
    assert [finding.layer for finding in report.findings] == ["1", "4", "7"]
    whole(report)


def test_fires_on_a_program_in_training_mode(whole):
    report = diagnose(torch.export.export(trained(), (X,)))
    assert report.codes == ("BN048",)
    assert [finding.layer for finding in report.findings] == ["1", "4", "7"]
    whole(report)


def test_fires_on_an_onnx_graph_in_training_mode(whole):
    report = diagnose(onnx_model(training=True))
    assert report.codes == ("BN048",)
    whole(report)


def test_fires_on_another_eps(whole):
    report = diagnose(onnx_model(training=False), source_eps=1e-5)
    assert report.codes == ("BN048",)
    whole(report)


def test_fires_without_statistics(whole):
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False)).eval()
    whole(diagnose(torch.jit.trace(model, X)))


def test_fires_before_an_export(whole):
    whole(diagnose(trained(), goal="export", rules=["BN048"]))


def test_fires_on_a_cumulative_mean_before_an_export(whole):
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4, momentum=None), nn.ReLU())
    with pytest.raises(GuardOnDataDependentSymNode):
        torch.export.export(model, (X,))
    whole(diagnose(model, goal="export"))


def quantized(fused):
    """A convolution and its batch norm in quantization-aware training."""
    quantization = torch.ao.quantization
    model = nn.Sequential(nn.Conv2d(1, 4, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU()).train()
    model.qconfig = quantization.get_default_qat_qconfig()
    if fused:
        quantization.fuse_modules_qat(model, [["0", "1", "2"]], inplace=True)
    return quantization.prepare_qat(model)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_fires_on_a_layer_left_unfused_in_quantization_aware_training(whole):
    whole(diagnose(quantized(fused=False)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_is_silent_on_a_fused_one_and_on_one_frozen_late():
    assert diagnose(quantized(fused=True)).findings == ()
    model = quantized(fused=False)
    model[1].eval()
    assert "BN048" not in diagnose(model).codes


@pytest.mark.filterwarnings("ignore")
def test_is_silent_on_an_onnx_export_of_a_model_in_training_mode():
    pytest.importorskip("onnxscript", reason="needs the extra onnx")
    model = trained()
    program = torch.onnx.export(model, (X,), dynamo=True, optimize=False, verbose=False)
    assert model.training
    report = diagnose(program.model_proto)
    assert (report.layers_seen, report.findings) == (3, ())


def test_is_silent_on_programs_in_prediction_mode():
    model = trained().eval()
    assert diagnose(torch.jit.trace(model, X)).findings == ()
    assert diagnose(torch.export.export(model, (X,))).findings == ()
    assert diagnose(onnx_model(training=False), source_eps=1e-3).findings == ()


def test_is_silent_on_a_script_that_reads_its_mode():
    script = torch.jit.script(fresh())
    assert "BN048" not in diagnose(script).codes


@pytest.mark.parametrize("export", [torch.jit.trace, lambda model, x: torch.export.export(model, (x,))])
def test_fires_on_a_graph_without_statistics_and_does_not_blame_the_mode(export):
    (finding, *_) = diagnose(export(fresh(track_running_stats=False).eval(), X)).findings
    assert "has no running statistics" in finding.message
    assert "(BN014)" in finding.fix.text
