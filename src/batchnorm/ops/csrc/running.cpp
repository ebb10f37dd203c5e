// The running statistics, moved towards a batch's in place.

#include <cmath>

#include "operators.h"

namespace batchnorm {

void update_running_stats(const Tensor& running_mean, const Tensor& running_var,
                          const OptionalTensor& num_batches_tracked, const Tensor& mean, const Tensor& var,
                          int64_t count, std::optional<double> momentum, bool skip_nonfinite) {
  const char* op = "update_running_stats";
  const Vector means(op, running_mean, "running_mean"), vars(op, running_var, "running_var");
  const Vector batch_means(op, mean, "mean"), batch_vars(op, var, "var");
  const int64_t C = means.size();
  for (const auto& [vector, name] :
       {std::pair{&vars, "running_var"}, {&batch_means, "mean"}, {&batch_vars, "var"}})
    if (vector->size() != C)
      refuse(op, name, std::to_string(C) + " channels", std::to_string(vector->size()));
  if (skip_nonfinite && count > 0)
    for (int64_t c = 0; c < C; ++c)
      if (!std::isfinite(batch_means.get(c)) || !std::isfinite(batch_vars.get(c))) return;

  double weight = momentum.value_or(0);
  if (num_batches_tracked) {
    int64_t& batches = *counter(op, *num_batches_tracked);
    ++batches;
    if (!momentum) weight = 1 / static_cast<double>(batches);
  }
  if (count == 0) return;
  const double unbiased = count > 1 ? static_cast<double>(count) / static_cast<double>(count - 1) : 1;
  for (int64_t c = 0; c < C; ++c) {
    means.set(c, (1 - weight) * means.get(c) + weight * batch_means.get(c));
    vars.set(c, (1 - weight) * vars.get(c) + weight * unbiased * batch_vars.get(c));
  }
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_forward_update(
    const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
    const OptionalTensor& residual, const Tensor& running_mean, const Tensor& running_var,
    const OptionalTensor& num_batches_tracked, double eps, int64_t activation,
    std::optional<double> momentum, bool skip_nonfinite, int64_t avg_pool) {
  auto result = batch_norm_forward(input, weight, bias, residual, eps, activation, avg_pool);
  const auto& [output, mean, var] = result;
  const int64_t channels = input.size(1), count = channels ? input.numel() / channels : 0;
  update_running_stats(running_mean, running_var, num_batches_tracked, mean, var, count, momentum,
                       skip_nonfinite);
  return result;
}

}  // namespace batchnorm
