"""Large outputs lie in the memory that earlier ones have left."""

import os
import platform
import subprocess
import sys

import pytest
import torch

import batchnorm as bn
from batchnorm.ops import has_native

pytestmark = pytest.mark.skipif(
    not has_native("cpu") or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11),
    reason="needs the native CPU kernels and torch 2.11",
)

SHAPE = (8, 16, 64, 64)  # 2 MB


RESIDENT = """
import torch, batchnorm as bn
norm = bn.BatchNorm2d(16, affine=False).requires_grad_(False)

def resident():
    fields = dict(line.split(":", 1) for line in open("/proc/self/status"))
    return int(fields["VmRSS"].split()[0]) / 1024
"""


def layer():
    return bn.BatchNorm2d(SHAPE[1], affine=False, backend="native").requires_grad_(False)


def in_process(program, **environment):
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("MALLOC_")}
    result = subprocess.run(
        [sys.executable, "-c", program], env={**inherited, **environment}, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.split()


def test_an_output_takes_the_memory_of_one_that_is_gone():
    x = torch.randn(SHAPE)
    norm = layer()
    first = norm(x)
    place = first.data_ptr()
    del first
    assert norm(x).data_ptr() == place


def test_memory_that_is_looked_at_is_not_taken():
    x = torch.randn(SHAPE)
    norm = layer()
    first = norm(x)
    values, view = first.clone(), first[3:, 2]
    del first
    second = norm(2 * x + 1)
    assert second.untyped_storage().data_ptr() != view.untyped_storage().data_ptr()
    assert torch.equal(view, values[3:, 2])


def test_a_network_trained_in_reused_memory_ends_with_the_same_bits():
    program = """
import torch, batchnorm as bn
torch.manual_seed(0)
torch.set_num_threads(1)
norm = bn.BatchNorm2d(16, activation="relu")
model = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3), norm, torch.nn.Conv2d(16, 4, 3))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
for step in range(4):
    optimizer.zero_grad()
    model(torch.randn(8, 3, 66, 66)).square().mean().backward()
    optimizer.step()
print(*(p.double().sum().item().hex() for p in model.parameters()))
"""
    assert in_process(program) == in_process(program, BATCHNORM_REUSE_MEMORY="0")


def test_it_can_be_turned_off():
    program = """
import torch, batchnorm as bn
print(bn.BatchNorm2d(16)(torch.randn(8, 16, 64, 64)).untyped_storage().resizable())
"""
    assert in_process(program) == ["False"]
    assert in_process(program, BATCHNORM_REUSE_MEMORY="0") == ["True"]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_outputs_of_many_sizes_leave_no_more_than_was_in_use_at_once():
    program = """
x = torch.randn(8, 16, 130, 130)
norm(x)
before = resident()
for size in range(90, 130):
    norm(x[:, :, :size].contiguous())
print(resident() - before)
"""
    # what is freed goes back to the system, and is not kept for other tensors
    (megabytes,) = map(float, in_process(RESIDENT + program, MALLOC_MMAP_THRESHOLD_="131072"))
    assert megabytes < 12  # the 40 outputs together: 230


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_what_a_larger_pass_left_goes_back_though_each_output_finds_its_block():
    program = """
torch.set_num_threads(1)
x, few = torch.randn(8, 16, 130, 130), torch.randn(8, 16, 32, 32)
norm(few)
outputs = [norm(x) for _ in range(10)]
del outputs
before = resident()
for _ in range(5000):
    norm(few)
print(before - resident())
"""
    (megabytes,) = map(float, in_process(RESIDENT + program, MALLOC_MMAP_THRESHOLD_="131072"))
    assert megabytes > 60  # of 83


def test_a_child_process_normalizes_too():
    program = """
import os, torch, batchnorm as bn
torch.set_num_threads(1)
norm, x = bn.BatchNorm2d(16), torch.randn(8, 16, 64, 64)
with torch.no_grad():
    norm(x)
    child = os.fork()
    norm(x)
    if child == 0:
        os._exit(7)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    assert in_process(program) == ["7"]


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="tells glibc's allocator something")
def test_the_c_library_keeps_large_blocks_in_its_heap():
    program = """
import ctypes, torch, batchnorm as bn
bn.BatchNorm2d(16, backend="native")(torch.randn(8, 16, 64, 64))
libc = ctypes.CDLL(None)
libc.malloc.restype = libc.sbrk.restype = ctypes.c_void_p
block = libc.malloc(ctypes.c_size_t(30 << 20))
print("heap" if block < libc.sbrk(0) else "system")
"""
    assert in_process(program) == ["heap"]
    assert in_process(program, BATCHNORM_REUSE_MEMORY="0") == ["system"]
    assert in_process(program, MALLOC_TRIM_THRESHOLD_="1000000") == ["system"]  # as the user wants it
