"""What commands work on: models made by a factory, and files of tensors. No file is ever executed."""

from batchnorm.targets.checkpoint import CHECKPOINTS, load_state, pack_state, put_state, unpack_state
from batchnorm.targets.factory import load_factory, load_model

__all__ = [
    "CHECKPOINTS",
    "load_factory",
    "load_model",
    "load_state",
    "pack_state",
    "put_state",
    "unpack_state",
]
