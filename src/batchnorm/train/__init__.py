"""One training loop, its settings and its records."""

from batchnorm.train.config import ARMS, MODELS, TrainConfig
from batchnorm.train.run import Observer, train

__all__ = ["ARMS", "MODELS", "Observer", "TrainConfig", "train"]
