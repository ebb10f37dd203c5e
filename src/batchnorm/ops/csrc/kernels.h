// What a kernel gets and does, and the table in which each instruction set lists its kernels.
//
// Every kernel works on one (group, segment) of a Geometry. Notation: x input, y output, z the
// pre-activation, g = dL/dy, dz = dL/dz. Per channel:
//
//   z  = (x - mean) * scale + shift (+ residual)      y = act(z)
//   dz = g * act'(z)
//   dx = dz * scale + (x - mean) * slope + offset
//
// with scale = weight * invstd, shift = bias; slope and offset carry the terms through the statistics.

#pragma once

#include "geometry.h"

namespace batchnorm {

enum Dtype { FLOAT32, BFLOAT16, FLOAT16, FLOAT64, DTYPES };
enum Activation { IDENTITY, RELU, LEAKY_RELU, RELU6, SIGMOID, TANH, SILU, GELU, HARDSWISH, ACTIVATIONS };

// Whether arithmetic, not memory, is the limit.
constexpr BATCHNORM_INLINE bool is_heavy(int64_t activation) {
  return activation >= SIGMOID && activation <= GELU;
}

// What a kernel does besides: add a residual, or average the output over windows.
enum Besides { PLAIN, RESIDUAL, AVERAGES, BESIDES };

// Coefficients of all channels, each (C,), in the accumulation type (double for FLOAT64, else float).
enum Coefficient { MEAN, SCALE, SHIFT, SLOPE, OFFSET, COEFFICIENTS };

// What is averaged of the output: windows of size x size values, side by side, of images whose lines have so many
// values; 1 for none.
struct Windows {
  int64_t size = 1, line = 1;

  BATCHNORM_INLINE int64_t area() const { return size * size; }
  // Averages of so many values from the start of a band on; and where those are that start there.
  BATCHNORM_INLINE int64_t averages(int64_t values) const { return values / area(); }
};

struct Task {
  Geometry geometry;
  const void* x;
  const void* grad;      // dL/dy, or dL/dz for an IDENTITY kernel; of averages where there are windows
  const void* residual;  // or null
  const void* following;  // what the pass after `moments` reads besides x, to be fetched along; or null
  void* out;             // y, or its averages; or dx
  void* dz;              // written by `gradients`: a residual's gradient, or null, or see may_keep
  void* aside;           // where `gradients` keeps dz of the group in the accumulation type, or null
  const void* coefficient[COEFFICIENTS];
  Windows windows;
  bool frozen;  // the statistics are constants: dx = dz * scale
  bool stream;  // write past the cache
};

// Sums over one segment into `sums`, which starts as zeros:
//   moments    1 + 2 * channels: count, then each channel's mean, then each channel's M2
//   gradients  2 * channels: each channel's sum(dz), then each channel's sum(dz * (x - mean))
// with channels those of the group and M2 = sum((x - mean)^2).
using Reduce = void (*)(const Task&, int64_t group, int64_t segment, double* sums);
// Writes `out` for one segment.
using Map = void (*)(const Task&, int64_t group, int64_t segment);

struct Kernels {
  Reduce moments;
  Map normalize[ACTIVATIONS][BESIDES];
  Reduce gradients[ACTIVATIONS][BESIDES];
  Map input_gradient[ACTIVATIONS][BESIDES];
  Map input_gradient_of_aside;         // `grad` is what a kernel of `gradients` left `aside`
};

// Merges the mean and M2 of more values into those seen so far (Chan, Golub & LeVeque 1979); exact but
// for rounding, however far apart the means are. One merge serves all channels, whose counts agree.
struct MomentsMerge {
  double share, weight;

  BATCHNORM_INLINE MomentsMerge(double count, double more)
      : share(more / (count + more)), weight(count * share) {}
  BATCHNORM_INLINE void operator()(double& mean, double& m2, double more_mean, double more_m2) const {
    const double delta = more_mean - mean;
    mean += delta * share;
    m2 += more_m2 + delta * delta * weight;
  }
};

// The same for sums of the `moments` kernel.
BATCHNORM_INLINE void merge_moments(int64_t channels, double* sums, const double* next) {
  const MomentsMerge merge(sums[0], next[0]);
  for (int64_t i = 1; i <= channels; ++i) merge(sums[i], sums[channels + i], next[i], next[channels + i]);
  sums[0] += next[0];
}

// And for plain sums.
BATCHNORM_INLINE void add_sums(int64_t count, double* sums, const double* next) {
  for (int64_t i = 0; i < count; ++i) sums[i] += next[i];
}

// [rows, columns]
using Family = Kernels[2];

// The kernels of a dtype for the instruction set in use, which instruction_set() names.
const Family& family(Dtype dtype);
const char* instruction_set();

}  // namespace batchnorm
