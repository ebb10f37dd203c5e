import dataclasses
import json

import pytest

from batchnorm.bench import BenchPlan
from tests.bench.plans import plan


def test_everything_is_crossed_and_channels_last_skipped_where_there_is_none():
    small = plan(threads=(1, 2), huge_pages=(True, False))
    problems = [(case.name, len(shape), dtype, layout) for case, shape, dtype, layout in small.problems()]
    assert problems == [
        ("relu", 4, "float32", "contiguous"),
        ("predict", 4, "float32", "contiguous"),
        ("relu", 4, "float32", "channels_last"),
        ("predict", 4, "float32", "channels_last"),
        ("relu", 2, "float32", "contiguous"),
        ("predict", 2, "float32", "contiguous"),
    ]
    assert len(small) == 6 * 2 * 2 * 2  # peers, threads, huge pages


def test_a_plan_goes_through_json():
    assert BenchPlan.from_dict(json.loads(json.dumps(dataclasses.asdict(plan())))) == plan()


@pytest.mark.parametrize("several", [{"threads": (1, 2)}, {"huge_pages": (True, False)}])
def test_settings_of_the_cpu_are_not_varied_on_a_gpu(monkeypatch, several):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    with pytest.raises(ValueError, match=r"^bench: \w+ expected one setting with device cuda"):
        plan(device="cuda", **several)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cases": ("fast",)}, "bench: cases expected some of forward, forward.backward, relu, .*, got fast"),
        ({"dtypes": ()}, "bench: dtypes expected some of float32, bfloat16, float16, float64, got none"),
        ({"layouts": ("rows",)}, "bench: layouts expected some of contiguous, channels_last, got rows"),
        ({"peers": ("jax",)}, "bench: peers expected some of torch, inplace, compile, copy, got jax"),
        ({"shapes": ()}, "bench: shapes expected at least one, got none"),
        ({"shapes": ((8,),)}, "bench: shapes expected 2 to 5 sizes >= 1, got 8"),
        ({"shapes": ((8, 0),)}, "bench: shapes expected 2 to 5 sizes >= 1, got 8x0"),
        ({"shapes": ((1, 8),)}, "bench: shapes expected more than 1 value per channel, got 1x8"),
        ({"threads": (0,)}, "bench: threads expected integers >= 1, got 0"),
        ({"huge_pages": ()}, "bench: huge_pages expected on, off or both, got none"),
        ({"device": "tpu"}, "bench: device expected cpu, or cuda on a machine .*, got tpu"),
        ({"pairs": 0}, "bench: pairs expected an integer >= 1, got 0"),
        ({"backend": "warp"}, "bench: backend expected one of auto, eager, native, torch, got warp"),
        (
            {"shapes": ((8, 3),), "layouts": ("channels_last",)},
            "bench: layouts expected one that the shapes have, got channels_last",
        ),
    ],
)
def test_a_bad_setting_is_named(changes, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        plan(**changes)
