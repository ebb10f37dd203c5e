// Where outputs lie and how they are written.

#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>

namespace batchnorm {

// A dense tensor of `bytes`, not initialized. A large one lies in the memory of an earlier output that is no
// longer used, if there is one of its size: the first touch of fresh memory costs more than the kernels that
// write it (decision 40).
torch::stable::Tensor new_output(const int64_t* sizes, const int64_t* strides, int64_t rank, int32_t dtype,
                                 int64_t bytes);

// Whether to write an output of so many bytes past the cache, which would first read it and later evict what
// is still needed. (Measured on Zen 4 with 32 MB of last-level cache, whole networks too: an output is one of
// three to five tensors that a call touches.)
inline bool goes_past_cache(int64_t bytes) { return bytes >= 2 << 20; }

}  // namespace batchnorm
