// The operators of the library `batchnorm`; their schemas and meaning are in ../schema.py.

#pragma once

#include <tuple>

#include "tensor.h"

namespace batchnorm {

// grad_input, grad_weight, grad_bias, grad_residual
using Gradients = std::tuple<Tensor, Tensor, Tensor, Tensor>;

std::tuple<Tensor, Tensor, Tensor> batch_norm_forward(const Tensor& input, const OptionalTensor& weight,
                                                      const OptionalTensor& bias,
                                                      const OptionalTensor& residual, double eps,
                                                      int64_t activation, int64_t avg_pool);

// batch_norm_forward and update_running_stats in one call: half the dispatches of a training step.
std::tuple<Tensor, Tensor, Tensor> batch_norm_forward_update(
    const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
    const OptionalTensor& residual, const Tensor& running_mean, const Tensor& running_var,
    const OptionalTensor& num_batches_tracked, double eps, int64_t activation,
    std::optional<double> momentum, bool skip_nonfinite, int64_t avg_pool);

Tensor normalize(const Tensor& input, const Tensor& mean, const Tensor& var, const OptionalTensor& weight,
                 const OptionalTensor& bias, const OptionalTensor& residual, double eps, int64_t activation,
                 int64_t avg_pool);

Gradients batch_norm_backward(const Tensor& grad_output, const Tensor& input, const OptionalTensor& weight,
                              const OptionalTensor& bias, const OptionalTensor& residual, const Tensor& mean,
                              const Tensor& var, double eps, int64_t activation, int64_t avg_pool);

Gradients normalize_backward(const Tensor& grad_output, const Tensor& input, const Tensor& mean,
                             const Tensor& var, const OptionalTensor& weight, const OptionalTensor& bias,
                             const OptionalTensor& residual, double eps, int64_t activation,
                             int64_t avg_pool);

void update_running_stats(const Tensor& running_mean, const Tensor& running_var,
                          const OptionalTensor& num_batches_tracked, const Tensor& mean, const Tensor& var,
                          int64_t count, std::optional<double> momentum, bool skip_nonfinite);

std::tuple<Tensor, Tensor, Tensor> moments(const Tensor& input, const std::vector<int64_t>& sizes);

Tensor forward_apply(const Tensor& input, const Tensor& mean, const Tensor& scale, const Tensor& shift,
                     const OptionalTensor& residual, const std::vector<int64_t>& sizes, int64_t activation);

// sum(dz), sum(dz * (x - mean)), grad_residual
std::tuple<Tensor, Tensor, Tensor> backward_reduce(const Tensor& grad_output, const Tensor& input,
                                                   const Tensor& mean, const Tensor& scale,
                                                   const Tensor& shift, const OptionalTensor& residual,
                                                   const std::vector<int64_t>& sizes, int64_t activation);

Tensor backward_apply(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& scale,
                      const Tensor& shift, const Tensor& slope, const Tensor& offset,
                      const OptionalTensor& residual, const std::vector<int64_t>& sizes, int64_t activation);

}  // namespace batchnorm
