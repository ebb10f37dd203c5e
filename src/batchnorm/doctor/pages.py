"""The rules' pages, made from their docstrings: for `batchnorm explain` and `docs/rules/`."""

from batchnorm.doctor.rule import Rule, all_rules

__all__ = ["index", "page"]

EVIDENCE = {
    "S": "the module or its graph, without data",
    "C": "a checkpoint alone, or the model's tensors",
    "O": "settings of optimizer, loader and trainer",
    "F": "one forward pass",
    "T": "eight training batches or more",
    "W": "a distributed world",
}


def page(rule: Rule) -> str:
    """One rule's page in Markdown."""
    summary, _, rest = rule.page.partition("\n")
    confirmed = "; data confirm or withdraw it" if rule.confirm else ""
    mends = f"`batchnorm doctor --fix --consent {rule.code}` mends it." if rule.mend else ""
    lines = [
        f"# {rule.code} {rule.name}",
        summary,
        rest.strip(),
        f"Evidence: {EVIDENCE[rule.evidence]}{confirmed}.",
    ]
    return "\n\n".join([*lines, *([mends] if mends else [])]) + "\n"


def index() -> str:
    """The list of all pages in Markdown."""
    rows = [
        f"| [{rule.code}]({rule.code}.md) | {rule.name} | {rule.page.splitlines()[0]} |"
        for rule in sorted(all_rules().values(), key=lambda rule: rule.code)
    ]
    head = [
        "# The doctor's rules",
        "",
        "Made from the rules' docstrings by `python tools/rule_pages.py`.",
        "",
    ]
    return "\n".join([*head, "| code | name | what is wrong |", "| --- | --- | --- |", *rows]) + "\n"
