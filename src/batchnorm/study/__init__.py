"""Studies: each claim about batch normalization, measured, with a verdict computed by a stated rule."""

from batchnorm.study.cost import estimated_seconds, measured_speed
from batchnorm.study.discovery import all_studies, choose_studies
from batchnorm.study.executors import EXECUTORS, check_workers
from batchnorm.study.run import StudyObserver, Work, prepare, run_studies
from batchnorm.study.study import Condition, Plan, Reading, Study
from batchnorm.study.trial import Trial

__all__ = [
    "EXECUTORS",
    "Condition",
    "Plan",
    "Reading",
    "Study",
    "StudyObserver",
    "Trial",
    "Work",
    "all_studies",
    "check_workers",
    "choose_studies",
    "estimated_seconds",
    "measured_speed",
    "prepare",
    "run_studies",
]
