"""Batch norm is the model's last layer.

Outputs are forced to mean bias and spread weight over each batch, so a regression cannot follow its
targets: [1, 2, 1000] leave as -0.708, -0.706, 1.414.

Found by: the traced graph.

Severity: info.

Fix: leave it out, or standardize the targets.

Mistaken for it: embeddings that end in batch norm on purpose (re-identification, metric learning,
redundancy reduction).

Reports: IN-10.
"""

from collections.abc import Iterator

from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import advice, found
from batchnorm.records import Finding

EVIDENCE = "S"


def check(patient: Patient) -> Iterator[Finding]:
    """What the output is."""
    graph = patient.graph
    if graph is None:
        return
    for site in graph.sites:
        if graph.feeds_output(site.node) and patient.by_name[site.layer].only_normalizes:
            yield found(
                "info",
                site.layer,
                "The model's output is that of batch norm: its mean and spread are fixed over each batch. "
                "Right for an embedding, wrong for a regression.",
                advice("for a regression leave it out and standardize the targets"),
            )
