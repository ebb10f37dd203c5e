import json
import math
import re

import numpy as np
import pytest

from batchnorm.train import TrainConfig


def test_the_defaults_are_the_textbooks():
    config = TrainConfig()
    assert (config.model, config.optimizer, config.lr, config.batch_size, config.epochs) == (
        "lenet",
        "sgd",
        1.0,
        256,
        10,
    )


def test_a_config_survives_json():
    config = TrainConfig(arms=("batch",), seeds=(0, 3), clip=1.0)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_an_unknown_setting_is_named():
    with pytest.raises(ValueError, match="config expected the settings of TrainConfig, got speed"):
        TrainConfig.from_dict({"speed": 1})


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"model": "vgg"}, "train: model expected one of lenet, resnet20, resnet56, resnet110, got vgg"),
        ({"arms": ("batch", "layer")}, "train: arms expected some of .*, got batch,layer"),
        ({"arms": ()}, "train: arms expected some of"),
        ({"arms": ("batch", "batch")}, "train: arms expected each arm once"),
        ({"seeds": (1, 1)}, "train: seeds expected each seed once"),
        ({"seeds": (-1,)}, "train: seeds expected integers >= 0, got -1"),
        ({"seeds": (0, 2**32)}, "train: seeds expected integers up to 4294967295, got 0,4294967296"),
        ({"lr": 0.0}, "train: lr expected a finite number > 0, got 0.0"),
        ({"lr": math.nan}, "train: lr expected a finite number > 0, got nan"),
        ({"epochs": 0}, "train: epochs expected an integer >= 1, got 0"),
        ({"momentum": 1.0}, "train: momentum expected 0 <= momentum < 1, got 1.0"),
        ({"accumulate": 3}, "train: accumulate expected a divisor of batch_size 256, got 3"),
        ({"batch_size": 1}, "train: batch_size expected at least 2 images per micro-batch .*, got 1"),
        ({"batch_size": 4, "accumulate": 4}, "train: batch_size expected at least 2 images"),
        ({"backend": "fast"}, "train: backend expected one of auto, eager, native, torch, got fast"),
        ({"stats": "ghost:1"}, "Ghost: size expected at least 2 samples, got 1"),
        ({"stats": "domains:2"}, "train: stats expected kinds without rows.* got domains:2"),
        ({"threads": 0}, "train: threads expected an integer >= 1, got 0"),
        ({"threads": 99999999999}, "train: threads expected at most 1024, got 99999999999"),
        ({"precision": "int8"}, "train: precision expected one of float32"),
        ({"clip": -1.0}, "train: clip expected a number > 0, got -1.0"),
    ],
)
def test_a_wrong_setting_is_refused_in_one_line(setting, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**setting)


def test_one_image_a_batch_is_fine_without_batch_normalization():
    assert TrainConfig(arms=("none",), batch_size=1).batch_size == 1


def test_every_process_needs_two_images_a_micro_batch():
    config = TrainConfig(batch_size=12, accumulate=3)
    config.expect_processes(2)
    with pytest.raises(ValueError, match="at least 2 images per micro-batch in each of 3 processes, got 12"):
        config.expect_processes(3)
    TrainConfig(arms=("none",), batch_size=12, accumulate=3).expect_processes(4)


def test_settings_become_plain_ones_that_json_knows():
    config = TrainConfig(
        arms=["none", "batch"], seeds=range(2), epochs=np.int64(3), lr=np.float32(0.5), clip=np.int64(2)
    )
    assert config == TrainConfig(seeds=(0, 1), epochs=3, lr=0.5, clip=2)
    assert TrainConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"arms": "batch"}, "train: arms expected some of none, batch, torch, scratch, got batch"),
        ({"arms": 3}, "train: arms expected some of none, batch, torch, scratch, got 3"),
        ({"seeds": 3}, "train: seeds expected integers >= 0, in a tuple, got 3"),
        ({"seeds": (0.5,)}, "train: seeds expected integers >= 0, in a tuple, got 0.5"),
        ({"epochs": 2.5}, "train: epochs expected an integer >= 1, got 2.5"),
        ({"epochs": None}, "train: epochs expected an integer >= 1, got None"),
        ({"batch_size": "64"}, "train: batch_size expected an integer >= 1, got 64"),
        ({"lr": "1e-3"}, "train: lr expected a number, got 1e-3"),
        ({"momentum": None}, "train: momentum expected a number, got None"),
        ({"clip": [1]}, "train: clip expected a number, got [1]"),
        ({"drop_last": "no"}, "train: drop_last expected True or False, got no"),
        ({"deterministic": 1}, "train: deterministic expected True or False, got 1"),
    ],
)
def test_a_setting_of_another_kind_is_refused_in_one_line(setting, message):
    with pytest.raises(ValueError, match=rf"^{re.escape(message)}$"):
        TrainConfig(**setting)
