// Per-channel coefficients of the kernels (see kernels.h) from statistics and parameters.

#pragma once

#include <cmath>
#include <vector>

#include "tensor.h"

namespace batchnorm {

class Coefficients {
 public:
  Coefficients(const Batch& batch, const OptionalTensor& weight, const OptionalTensor& bias, double eps)
      : C(batch.geometry.C),
        is_double(batch.is_double()),
        eps(eps),
        weight(batch.parameter(weight, "weight", 1)),
        bias(batch.parameter(bias, "bias", 0)),
        memory(COEFFICIENTS * (C + APART)) {}

  void pass_to(Task& task) const {
    for (int which = 0; which < COEFFICIENTS; ++which) task.coefficient[which] = at(which);
  }

  // z = (x - mean) * scale + shift. Takes the statistics as they are saved, rounded, so that the
  // backward pass and a recomputed forward get the same bits.
  void normalize(int64_t c, double mean, double var) {
    set(MEAN, c, mean);
    set(SCALE, c, weight[c] * invstd(var));
    set(SHIFT, c, bias[c]);
  }

  // dx = scale * (dz - mean(dz) - x_hat * mean(dz * x_hat)), x_hat = (x - mean) * invstd.
  void through_statistics(int64_t c, double var, double mean_dz, double mean_dz_centred) {
    const double s = invstd(var), scale = weight[c] * s;
    set(SLOPE, c, -scale * s * s * mean_dz_centred);
    set(OFFSET, c, -scale * mean_dz);
  }

  double invstd(double var) const { return 1 / std::sqrt(var + eps); }

 private:
  static constexpr int64_t APART = 80;  // values: see Strips::Scratch

  const void* at(int which) const {
    return is_double ? static_cast<const void*>(memory.data() + which * (C + APART))
                     : static_cast<const void*>(reinterpret_cast<const float*>(memory.data()) +
                                                which * (C + APART));
  }
  void set(Coefficient which, int64_t c, double value) {
    void* p = const_cast<void*>(at(which));
    if (is_double) {
      static_cast<double*>(p)[c] = value;
    } else {
      static_cast<float*>(p)[c] = static_cast<float>(value);
    }
  }

  int64_t C;
  bool is_double;
  double eps;
  std::vector<double> weight, bias, memory;
};

// Values of a (C,) tensor in the accumulation dtype.
class ChannelValues {
 public:
  ChannelValues(const Batch& batch, const Tensor& tensor)
      : data(tensor.mutable_data_ptr()), is_double(batch.is_double()) {}

  double get(int64_t c) const {
    return is_double ? static_cast<double*>(data)[c] : static_cast<float*>(data)[c];
  }
  // Returns the value as it was stored, rounded.
  double set(int64_t c, double value) {
    if (is_double) return static_cast<double*>(data)[c] = value;
    return static_cast<float*>(data)[c] = static_cast<float>(value);
  }

 private:
  void* data;
  bool is_double;
};

}  // namespace batchnorm
