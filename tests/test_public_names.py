"""The public names, pinned: adding or dropping one is a decision, not an accident."""

import importlib
import importlib.metadata
import subprocess
import sys

import pytest

NAMES = {
    "batchnorm": [
        "BatchNorm1d",
        "BatchNorm2d",
        "BatchNorm3d",
        "BatchNormLSTM",
        "convert",
        "diagnose",
        "fold",
        "interop",
        "lean",
        "nn",
        "ops",
        "recalibrate",
        "reduce_running_stats",
        "revert",
        "stats",
        "Watch",
    ],
    "batchnorm.nn": ["BatchNorm1d", "BatchNorm2d", "BatchNorm3d", "BatchNormLSTM", "lean", "statistics"],
    "batchnorm.nn.statistics": [
        "Accumulated",
        "Batch",
        "Cumulative",
        "Domains",
        "Frozen",
        "Ghost",
        "PerStep",
        "Renorm",
        "Rows",
        "Scheduled",
        "Statistics",
        "Sum",
        "Synced",
        "statistics_from_text",
    ],
    "batchnorm.ops": [
        "ACTIVATIONS",
        "BACKENDS",
        "NONFINITE",
        "batch_norm",
        "check_backend",
        "has_native",
        "resolve_backend",
    ],
    "batchnorm.reference": [
        "activate",
        "activation_derivative",
        "ACTIVATIONS",
        "batch_norm_backward",
        "batch_norm_forward",
        "batch_norm_lstm_forward",
        "batch_norm_predict",
        "batch_norm_predict_backward",
        "batch_stats",
        "EXCLUDED",
        "Gradients",
        "LSTMOutput",
        "LSTMParameters",
        "LSTMRunning",
        "merge_moments",
        "Moments",
        "normalizing_stats",
        "part_moments",
        "renorm_correction",
        "renorm_limits",
        "StepStatistics",
        "update_running_ghost",
        "update_running_rows",
        "update_running_stats",
        "weighted_backward",
        "weighted_forward",
    ],
    "batchnorm.models": [
        "build",
        "LeNet",
        "MODELS",
        "norm_factory",
        "norm_sites",
        "NormAct",
        "NormFactory",
        "NORMS",
        "ResNet",
    ],
    "batchnorm.data": [
        "Batches",
        "cache_directory",
        "ChecksumError",
        "CLASS_NAMES",
        "DataWarning",
        "FashionMNIST",
        "load_embedded_sample",
        "load_fashion_mnist",
        "MIRRORS",
        "SampleWarning",
    ],
    "batchnorm.interop": ["from_flax", "from_keras", "to_flax", "to_keras"],
    "batchnorm.targets": [
        "load_factory",
        "load_model",
        "load_state",
        "load_target",
        "pack_state",
        "Program",
        "put_state",
        "unpack_state",
        "unwrapped",
    ],
    "batchnorm.surgery": [
        "ConversionReport",
        "convert",
        "export",
        "ExportReport",
        "fold",
        "Folded",
        "FoldReport",
        "LayerChange",
        "LayerStatistics",
        "population_statistics",
        "recalibrate",
        "recalibrate_ranks",
        "RecalibrationReport",
        "reduce_running_stats",
        "revert",
        "ScaleShift",
        "swapped_statistics",
    ],
    "batchnorm.doctor": [
        "BatchNormWarning",
        "Watch",
        "diagnose",
        "FixReport",
        "LayerGap",
        "lightning_callback",
        "Mended",
        "Report",
        "Settings",
        "transformers_callback",
    ],
    "batchnorm.train": ["ARMS", "MODELS", "Observer", "TrainConfig", "train"],
    "batchnorm.bench": ["BenchPlan", "run_bench"],
    "batchnorm.study": [
        "all_studies",
        "check_workers",
        "choose_studies",
        "Condition",
        "estimated_seconds",
        "EXECUTORS",
        "measured_speed",
        "Plan",
        "prepare",
        "Reading",
        "run_studies",
        "Study",
        "StudyObserver",
        "Trial",
        "Work",
    ],
    "batchnorm.report": ["render_diagnosis", "write_book", "write_report"],
    "batchnorm.cli": ["main"],
}


@pytest.mark.parametrize("package", NAMES)
def test_public_names_are_these_and_exist(package):
    module = importlib.import_module(package)
    assert sorted(module.__all__, key=str.lower) == sorted(NAMES[package], key=str.lower)
    for name in module.__all__:
        getattr(module, name)


def test_importing_the_package_loads_no_torch():
    code = "import sys, batchnorm; assert 'torch' not in sys.modules; batchnorm.BatchNorm2d(3)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_version_is_that_of_the_installation():
    import batchnorm

    assert batchnorm.__version__ == importlib.metadata.version("batchnorm")


def test_an_unknown_name_is_an_attribute_error():
    import batchnorm

    with pytest.raises(AttributeError, match="has no attribute 'BatchNorm4d'"):
        batchnorm.BatchNorm4d  # noqa: B018
    assert "recalibrate" in dir(batchnorm)
