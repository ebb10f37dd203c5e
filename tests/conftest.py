"""Settings of every test, the fixture that makes unwritten memory show, and a browser."""

import ctypes
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from hypothesis import settings

from tests.interpreter import INTERPRETED, use_triton_on_the_cpu

if TYPE_CHECKING:
    from playwright.sync_api import Browser

M_PERTURB = -6  # in malloc.h: fill new memory with the complement of this byte

CHROMIUM = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

# One thread, so that sums are taken in the same order wherever the tests run.
torch.set_num_threads(1)

# A clean clone tests the same examples everywhere; `pytest --hypothesis-profile=explore` looks for new ones.
settings.register_profile("repeatable", deadline=None, derandomize=True)
settings.register_profile("explore", deadline=None, max_examples=1000, print_blob=True)
settings.register_profile("interpreted", deadline=None, derandomize=True, max_examples=8)
settings.load_profile("interpreted" if INTERPRETED else "repeatable")

if INTERPRETED:
    use_triton_on_the_cpu()


@pytest.fixture(scope="module")
def poisoned_memory() -> Iterator[None]:
    """Fill new uninitialized memory with NaN, or where C++ allocates with bytes 0x7f: 3.4e38 or NaN.

    Torch's deterministic mode does so for whatever goes through its dispatcher, `new_empty` too. Kernels
    behind the stable ABI allocate below it; for them the C library's allocator does it (glibc only).
    """
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True)
    set_allocator_option = getattr(ctypes.CDLL(None), "mallopt", lambda option, value: 0)
    set_allocator_option(M_PERTURB, 0x7F ^ 0xFF)
    yield
    set_allocator_option(M_PERTURB, 0)
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session")
def browser() -> "Iterator[Browser]":
    """A headless Chromium; one for all tests of a process, for Playwright cannot be started twice."""
    from playwright.sync_api import sync_playwright

    names = ("chromium", "chromium-browser", "google-chrome")
    executable = next(filter(None, map(shutil.which, names)), None)
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(names)} is installed")
    with sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=executable, args=CHROMIUM)
        yield chromium
        chromium.close()
