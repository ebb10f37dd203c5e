"""Batch-norm layers of Keras and Flax, taken over and given back: numbers only, neither is imported."""

from batchnorm.interop.flax import from_flax, to_flax
from batchnorm.interop.keras import from_keras, to_keras

__all__ = ["from_flax", "from_keras", "to_flax", "to_keras"]
