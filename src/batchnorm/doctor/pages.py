"""The rules' pages, made from their docstrings: for `batchnorm explain` and `docs/rules/`."""

from batchnorm.doctor.rule import Rule, all_rules

__all__ = ["index", "page", "summaries"]

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
    lines = [
        f"# {rule.code} {rule.name}",
        summary,
        rest.strip(),
        f"Evidence: {EVIDENCE[rule.evidence]}{confirmed}.",
    ]
    return "\n\n".join([*lines, *([_mends(rule)] if rule.mend else [])]) + "\n"


def _mends(rule: Rule) -> str:
    """The commands that mend it, by kind of fix if there are several."""
    data = " --data DATA" if rule.measures else ""
    commands = {
        "safe": "batchnorm doctor TARGET --fix -o mended.pt",
        "consent": f"batchnorm doctor TARGET{data} --fix --consent {rule.code} -o mended.pt",
    }
    made = [kind for kind in commands if kind in rule.fixes]
    if len(rule.fixes) == 1:
        return f"`{commands[made[0]]}` mends it."
    where = [f"`{commands[kind]}` mends it where a finding says `fix ({kind})`" for kind in made]
    return f"{'; '.join(where)}."


def summaries() -> list[tuple[str, str, str]]:
    """Code, name and what is wrong, of all rules."""
    rules = sorted(all_rules().values(), key=lambda rule: rule.code)
    return [(rule.code, rule.name, rule.page.splitlines()[0]) for rule in rules]


def index() -> str:
    """The list of all pages in Markdown."""
    rows = [f"| [{code}]({code}.md) | {name} | {what} |" for code, name, what in summaries()]
    head = [
        "# The doctor's rules",
        "",
        "Made from the rules' docstrings by `python tools/rule_pages.py`.",
        "",
    ]
    return "\n".join([*head, "| code | name | what is wrong |", "| --- | --- | --- |", *rows]) + "\n"
