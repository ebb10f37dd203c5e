"""With TRITON_INTERPRET=1 the Triton kernels stand in for the compiled CPU kernels in every test.

Triton's interpreter runs each operation of a kernel in NumPy. Two things of it are replaced here: its
conversion to bfloat16, which cuts where GPUs round to nearest, and what makes it slow.
"""

import dataclasses
import os
import warnings

import torch

__all__ = ["INTERPRETED", "use_triton_on_the_cpu"]

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"

# A program takes tens of milliseconds here, so there are few; their sums are still merged in several steps.
PROGRAMS = 8
MERGED_AT_ONCE = 4


def use_triton_on_the_cpu() -> None:
    """Register the Triton kernels for CPU tensors and prepare the interpreter."""
    from triton.runtime import interpreter

    from batchnorm.ops.triton import geometry, moments
    from batchnorm.ops.triton.load import register

    with warnings.catch_warnings(action="ignore", category=UserWarning):
        register("cpu")  # in place of the compiled kernels, where there are some
    geometry.PROGRAMS = PROGRAMS
    moments.MERGE["BLOCK_K"] = MERGED_AT_ONCE
    interpreter._convert_float = _convert_float
    interpreter._patch_lang = _patch_once(interpreter._patch_lang, interpreter._LangPatchScope)
    check_overflow(False)


def check_overflow(checked: bool) -> None:
    """Whether the interpreter asserts of each operation on integers that 32 bits are enough."""
    from triton.runtime import interpreter

    builder = interpreter.interpreter_builder
    builder.options = dataclasses.replace(builder.options, sanitize_overflow=checked, debug=checked)


def _patch_once(patch, scope):
    """Let the language run in NumPy for good, not anew for every call of one function by another."""
    patched = set()

    def patch_once(function):
        module = id(function.__globals__)
        if module not in patched:
            patched.add(module)
            patch(function)
        return scope()  # nothing to restore

    return patch_once


def _convert_float(input, input_dtype, output_dtype, rounding_mode):
    """Between float32 and bfloat16, as bits of the latter: the two that the interpreter converts itself."""
    if output_dtype.primitive_bitwidth == 32:
        return (input.astype("uint32") << 16).view("float32")
    return torch.from_numpy(input.copy()).bfloat16().view(torch.uint16).numpy()
