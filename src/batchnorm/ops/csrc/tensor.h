// Tensors as the kernels need them, over PyTorch's stable ABI.

#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <string>
#include <vector>

#include "kernels.h"
#include "output_memory.h"

namespace batchnorm {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// A batch (N, C, *spatial) in one of the two layouts the kernels read; others have been copied.
class Batch {
 public:
  // With `avg_pool` above 1 the output is the averages of windows of that size, which the kernels form of contiguous
  // images with whole windows, without a residual.
  Batch(const char* op, const Tensor& input, bool one_pass = false, int64_t avg_pool = 1);

  // Another tensor of the batch's shape, or of that of averages over windows, in its dtype and layout: itself, or
  // a copy.
  Tensor like(const Tensor& tensor, const char* name, int64_t window = 1) const;
  Tensor empty_like(int64_t window = 1) const;  // in the batch's layout, not initialized
  Tensor empty() const;           // (0,)
  Tensor empty_sums(int64_t size) const;  // (size,), in the accumulation dtype, not initialized
  Tensor empty_channels() const { return empty_sums(geometry.C); }
  Tensor channels(const Tensor& tensor, const char* name) const;  // (C,), in the accumulation dtype
  // (C,) values of a parameter of any floating dtype, or C times `missing`.
  std::vector<double> parameter(const OptionalTensor& tensor, const char* name, double missing) const;
  double value(int64_t index) const;  // one value of the tensor, by its place in memory
  // From `past_cache` bytes on past the cache.
  void write_to(const Tensor& out, Task& task, int64_t past_cache = PAST_CACHE_IN_TRAINING) const;
  Task task() const;  // with the geometry and x filled in

  Tensor tensor;
  Geometry geometry;
  Dtype dtype;
  Windows windows;

  int64_t values_per_channel() const { return geometry.N * geometry.S; }
  bool channels_last() const { return last; }
  bool is_exact() const { return dtype == FLOAT32 || dtype == FLOAT64; }  // stored as it is computed
  bool is_double() const { return dtype == FLOAT64; }
  const Kernels& kernels() const { return family(dtype)[geometry.columns]; }
  Besides besides(const OptionalTensor& residual) const;

 private:
  void choose_windows(int64_t avg_pool);
  size_t sizes_over(int64_t window, int64_t* sizes) const;  // returns how many
  int64_t bytes() const;

  const char* op;
  bool last;
};

// A (C,) tensor of any floating dtype and stride, read and written value by value.
class Vector {
 public:
  Vector(const char* op, const Tensor& tensor, const char* name);
  int64_t size() const { return length; }
  double get(int64_t c) const;
  void set(int64_t c, double value) const;

 private:
  void* data;
  Dtype dtype;
  int64_t length, stride;
};

int64_t* counter(const char* op, const Tensor& tensor);  // of an int64 tensor with one value
void check_activation(const char* op, int64_t activation);

// Throws "op: argument expected ..., got ...".
[[noreturn]] void refuse(const char* op, const char* argument, const std::string& expected,
                         const std::string& got);

}  // namespace batchnorm
