"""Fold networks of other people and note what became of their batch norms.

python -m tests.zoo.measure_fold docs/results/fold.json
"""

import copy
import json
import sys
import warnings
from collections import Counter

import torch

from batchnorm.ops.environment import describe_environment
from batchnorm.records import write_atomic
from batchnorm.surgery import fold
from batchnorm.surgery.equivalence import largest_difference, outputs_of
from tests.zoo.architectures import ARCHITECTURES, build, settle

__all__ = ["measure"]


def measure(name):
    """A row: how many batch norms went where, and the differences of the outputs.

    ``difference_float32`` and ``difference_float64`` are of the folded network from the network itself,
    ``rounding_float32`` is of the unfolded network in float32 from float64: what it is uncertain by anyway.
    """
    model, size = build(name)
    settle(model, size)
    images = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs
        _, single = fold(model, images, tolerance=1)
        exact = copy.deepcopy(model).double()
        folded, double = fold(exact, images.double(), tolerance=1)
        # images it was not folded with, and another number of them
        others = torch.randn(2, 3, *size, dtype=torch.float64)
        rounding = _difference(outputs_of(exact, images.double()), outputs_of(model, images))
        unseen = _difference(outputs_of(exact, others), outputs_of(folded, others))
    return {
        "network": name,
        "folded": len(double.folded),
        "alone": len(double.alone),
        "kept": len(double.kept),
        "difference_float32": single.difference,
        "difference_float64": double.difference,
        "unseen_float64": unseen,
        "rounding_float32": rounding,
        "reasons": dict(Counter(_kind(why) for why in (*double.alone.values(), *double.kept.values()))),
    }


def _difference(before, after):
    return max(largest_difference(a, b) for a, b in zip(before, after, strict=True))


def _kind(why):
    """A reason without the names: the kinds of modules, or the operations, before and after."""
    words = []
    for part in why.split("; "):
        verb, _, what = part.partition(" ") if part.startswith(("follows ", "feeds ")) else ("", "", part)
        if " also feeds " in what:
            what = "the layer before also feeds another"
        elif what.endswith("cannot be traced"):
            what = "in a forward that cannot be traced"
        elif "(" in what:
            what = what[what.index("(") + 1 : -1]
        else:
            what = what.rstrip("_0123456789")
        words.append(f"{verb} {what}".strip())
    return "; ".join(dict.fromkeys(words))


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = []
    for name in ARCHITECTURES:
        rows.append(measure(name))
        print(rows[-1], flush=True)
    record = {"environment": describe_environment(), "networks": rows}
    write_atomic(sys.argv[1], json.dumps(record, indent=1) + "\n")
