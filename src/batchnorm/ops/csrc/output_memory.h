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

// From how many bytes on an output is written past the cache, which would first read it and later evict what
// is still needed. A training step comes back to what it has read, a prediction does not. (Measured on Zen 4
// with 32 MB of last-level cache, with one thread and two, whole networks too.)
constexpr int64_t PAST_CACHE_IN_TRAINING = 2 << 20, PAST_CACHE_IN_PREDICTION = 8 << 20;

}  // namespace batchnorm
