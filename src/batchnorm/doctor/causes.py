"""Which findings another one makes superfluous, since it is their cause and accounts for their size."""

from collections.abc import Mapping
from functools import cache, partial

from batchnorm.doctor.gap import Gaps
from batchnorm.doctor.judge import withdrawn
from batchnorm.doctor.patient import Patient
from batchnorm.doctor.rule import Rule
from batchnorm.doctor.unchecked import Unchecked
from batchnorm.records import Finding

__all__ = ["drop_explained"]


def drop_explained(
    findings: list[Finding], rules: Mapping[str, Rule], patient: Patient, unchecked: Unchecked
) -> tuple[list[Finding], list[Finding]]:
    """The findings that no other explains, and the others, withdrawn with the cause that they go back to.

    Args:
        findings: That stand so far.
        rules: Of them.
        patient: Whose they are.
        unchecked: Told of a rule that fails at this; its findings stand.
    """

    @cache
    def left(code: str) -> Gaps:
        """The gaps without a cause wherever it was found."""
        if (without := rules[code].left) is not None:
            return without(patient)
        layers = {finding.layer for finding in findings if finding.code == code}
        return {} if None in layers else {k: gap for k, gap in patient.gaps.items() if k not in layers}

    def explains(cause: Finding, finding: Finding) -> bool:
        try:
            return rules[finding.code].explained(patient, finding, cause, partial(left, cause.code))
        except Exception as error:
            unchecked.add(finding.code, error)
            return False

    roots: dict[int, Finding | None] = {}

    def root(finding: Finding) -> Finding | None:
        """What explains it, by way of others too, and is itself not explained."""
        if id(finding) not in roots:
            roots[id(finding)] = None
            candidates = (other for other in findings if _may_explain(other, finding, rules))
            causes = (root(other) or other for other in candidates if explains(other, finding))
            roots[id(finding)] = next((cause for cause in causes if explains(cause, finding)), None)
        return roots[id(finding)]

    kept = [finding for finding in findings if root(finding) is None]
    causes = ((finding, root(finding)) for finding in findings)
    return kept, [withdrawn(finding, f"explained by {cause.code}") for finding, cause in causes if cause]


def _may_explain(cause: Finding, finding: Finding, rules: Mapping[str, Rule]) -> bool:
    """Whether a finding is of a rule, a gravity and a layer to make another superfluous."""
    return (
        cause.code in rules[finding.code].explained_by
        and (cause.severity != "info" or (finding.severity == "info" and cause.state == "confirmed"))
        and (cause.layer is None or finding.layer in (None, cause.layer))
    )
