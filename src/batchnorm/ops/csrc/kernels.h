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

// Coefficients of all channels, each (C,), in the accumulation type (double for FLOAT64, else float).
enum Coefficient { MEAN, SCALE, SHIFT, SLOPE, OFFSET, COEFFICIENTS };

struct Task {
  Geometry geometry;
  const void* x;
  const void* grad;      // dL/dy, or dL/dz for an IDENTITY kernel
  const void* residual;  // or null
  void* out;             // y or dx
  void* grad_residual;   // dz, written by `gradients` if there is a residual
  const double* origin;  // (C,): `moments` are taken about these
  const void* coefficient[COEFFICIENTS];
  bool frozen;           // the statistics are constants: dx = dz * scale
  bool stream;           // write past the cache
};

// Adds to sums (2, channels of the group): the moments or gradient sums of one segment.
using Reduce = void (*)(const Task&, int64_t group, int64_t segment, double* sums);
// Writes `out` for one segment.
using Map = void (*)(const Task&, int64_t group, int64_t segment);

struct Kernels {
  Reduce moments;                       // sum(x - origin), sum((x - origin)^2)
  Map normalize[ACTIVATIONS][2];        // [has residual]
  Reduce gradients[ACTIVATIONS][2];     // sum(dz), sum(dz * (x - mean))
  Map input_gradient[ACTIVATIONS];      // dx, without residual
};

// [columns]
using Family = Kernels[2];

// The family of a dtype for the instruction set in use (isa.cpp).
const Family& kernels(Dtype dtype);
const char* instruction_set();

}  // namespace batchnorm
