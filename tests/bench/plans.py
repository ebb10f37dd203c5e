"""A plan that takes a moment."""

from batchnorm.bench import BenchPlan

SETTINGS = {
    "shapes": ((4, 3, 5, 5), (8, 3)),
    "cases": ("relu", "predict"),
    "dtypes": ("float32",),
    "layouts": ("contiguous", "channels_last"),
    "peers": ("torch", "copy"),
    "threads": (1,),
    "huge_pages": (True,),
    "pairs": 1,
    "backend": "auto",
    "seed": 0,
}


def plan(**changes):
    return BenchPlan(**{**SETTINGS, **changes})
