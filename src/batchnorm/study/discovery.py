"""The studies there are: every module ``cNN_name.py`` beside this one holds one, as ``STUDY``."""

import importlib
import pkgutil
import re
from collections.abc import Sequence

import batchnorm.study
from batchnorm.study.study import Study

__all__ = ["all_studies", "choose_studies"]


def all_studies() -> tuple[Study, ...]:
    """Every study, in the order of the identifiers."""
    names = sorted(
        module.name
        for module in pkgutil.iter_modules(batchnorm.study.__path__)
        if re.fullmatch(r"c\d\d_\w+", module.name)
    )
    return tuple(importlib.import_module(f"batchnorm.study.{name}").STUDY for name in names)


def choose_studies(names: Sequence[str]) -> tuple[Study, ...]:
    """Studies by identifier or name, each once, in the order of the identifiers.

    Args:
        names: As ``c05`` or ``small-batches``, or ``all``; in any case; none at all is all.

    Raises:
        ValueError: If one is unknown.
    """
    studies = all_studies()
    wanted = {name.lower() for name in names} or {"all"}
    known = {word for study in studies for word in (study.id, study.name, study.title)} | {"all"}
    unknown = sorted(wanted - known)
    if unknown:
        listed = ", ".join(study.title for study in studies)
        raise ValueError(f"study: names expected all or some of {listed}, got {', '.join(unknown)}")
    if "all" in wanted:
        return studies
    return tuple(study for study in studies if wanted & {study.id, study.name, study.title})
