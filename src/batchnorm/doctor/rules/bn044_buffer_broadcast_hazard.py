"""Several training forwards before one backward, under a wrapper that broadcasts buffers at each.

`DistributedDataParallel` overwrites every process's running statistics with rank 0's at the start of a
forward. Where autograd counts that as a change, the backward of the earlier forward fails with "modified by
an inplace operation"; the usual victims are GANs, which run real and generated images one after the other.

Found by: counting the forwards of a training step, ``step_fn``, that come before its backward, and one
broadcast, to see whether it raises a buffer's version. In torch 2.13 it does not.

Severity: warn; info where the broadcast does not count.

Fix: one forward of both batches together; or ``broadcast_buffers=False``, and the statistics of all ranks
pooled before evaluation and saving (`batchnorm.reduce_running_stats`).

Mistaken for it: forwards in prediction mode; a backward after each forward.

Reports: DD-03, DD-04, DD-08.
"""

import itertools
from collections.abc import Iterator, Sequence

from torch.nn.parallel import DistributedDataParallel

from batchnorm.doctor.broadcast import broadcast, broadcasting
from batchnorm.doctor.observe import Call
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "F"


def check(patient: Patient) -> Iterator[Finding]:
    """The step's forwards, then the broadcast."""
    assert patient.model is not None
    wrappers = broadcasting(patient.model)
    forwards = forwards_before_backward(patient.step) if wrappers else 0
    if forwards > 1:
        counts = counts_as_change(patient, wrappers[0])
        yield found(
            "warn" if counts else "info",
            None,
            f"{forwards} training forwards come before one backward, and each broadcasts the running "
            "statistics first: "
            + (
                "autograd takes that for a change of what the earlier forward saved, and the backward fails."
                if counts
                else "with this version of torch autograd does not notice, with others the backward fails."
            ),
            advice("one forward of all batches together, or broadcast_buffers=False and pooled statistics"),
            {"forwards": float(forwards)},
        )


def forwards_before_backward(step: Sequence[Call]) -> int:
    """Forwards whose graph is open when the first call is recomputed or the step ends."""
    first = itertools.takewhile(lambda call: not call.backward, step)
    return len({call.forward for call in first if call.training and call.grad})


def counts_as_change(patient: Patient, wrapper: DistributedDataParallel) -> bool:
    """Whether the wrapper's broadcast raises a buffer's version; all processes ask at once."""
    with patient.lent():
        buffers = list(wrapper.buffers())  # the loan's own
        before = [buffer._version for buffer in buffers]
        broadcast(wrapper)
        return before != [buffer._version for buffer in buffers]
