"""Ranks that train together have very different batch sizes.

Statistics that ignore counts are then wrong: counts 1 and 3 with means 0 and 4 have mean 3, not 2.

Found by: the values per channel of the first batch on every rank: a factor above 2, or none.

Severity: info; error for a synchronized layer of unknown class.

Fix: count-weighted statistics, as torch's and this package's; a sampler that merges the tail.

Mistaken for it: the last batch of an epoch.

Reports: B1-03, B1-10, SY-03, SY-05, DD-05.
"""

from collections.abc import Iterator

from torch import distributed

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "W"

FACTOR = 2


def check(patient: Patient) -> Iterator[Finding]:
    """Counts of the first batch."""
    if not patient.has_data:
        return
    first = patient.training.batches[0] if patient.training.batches else ()
    own = {call.layer: 0 if call.moments is None else call.moments.count for call in first}
    world: list[dict[str, int] | None] = [None] * distributed.get_world_size()
    distributed.all_gather_object(world, own)
    for name in own:
        counts = [rank.get(name, 0) for rank in world if rank is not None]
        if min(counts) == 0 or max(counts) > FACTOR * min(counts):
            foreign = patient.by_name[name].kind == "foreign"
            yield found(
                "error" if foreign else "info",
                name,
                f"The ranks have {min(counts)} to {max(counts)} values per channel"
                + (": a layer of unknown class may weigh them alike." if foreign else "."),
                advice("count-weighted statistics: batchnorm.convert(model, stats=Synced())"),
                {"least": float(min(counts)), "most": float(max(counts))},
            )
            return
