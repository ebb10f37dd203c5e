"""What commands work on: models made by a factory, and files of tensors. No file is ever executed."""

from batchnorm.targets.checkpoint import load_state, pack_state, put_state, unpack_state, unwrapped
from batchnorm.targets.factory import load_factory, load_model
from batchnorm.targets.program import Program
from batchnorm.targets.target import load_target

__all__ = [
    "Program",
    "load_factory",
    "load_model",
    "load_state",
    "load_target",
    "pack_state",
    "put_state",
    "unpack_state",
    "unwrapped",
]
