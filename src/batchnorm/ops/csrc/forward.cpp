// Forward operators: batch_norm_forward computes the batch's statistics, normalize is given them.

#include <limits>

#include "coefficients.h"
#include "operators.h"
#include "schedule.h"

namespace batchnorm {
std::tuple<Tensor, Tensor, Tensor> batch_norm_forward(const Tensor& input, const OptionalTensor& weight,
                                                      const OptionalTensor& bias,
                                                      const OptionalTensor& residual, double eps,
                                                      int64_t activation, int64_t avg_pool) {
  const char* op = "batch_norm_forward";
  check_activation(op, activation);
  const Batch batch(op, input, false, avg_pool);
  const Geometry& g = batch.geometry;
  const Tensor out = batch.empty_like(batch.windows.size), mean = batch.empty_channels(), var = batch.empty_channels();
  ChannelValues means(batch, mean), vars(batch, var);
  const double count = static_cast<double>(batch.values_per_channel());
  if (count == 0) {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    for (int64_t c = 0; c < g.C; ++c) means.set(c, nan), vars.set(c, nan);
    return {out, mean, var};
  }
  const OptionalTensor added = residual ? OptionalTensor(batch.like(*residual, "residual")) : residual;
  Coefficients coefficients(batch, weight, bias, eps);
  Task task = batch.task();
  batch.write_to(out, task);
  task.residual = added ? added->const_data_ptr() : nullptr;
  // in channels_last a group is too large to be found in a cache by the next pass
  if (g.far && !batch.channels_last()) task.following = task.residual;
  coefficients.pass_to(task);

  const Kernels& k = batch.kernels();
  const Map normalize = k.normalize[activation][batch.besides(residual)];
  two_passes(
      g, 1 + 2 * g.group_channels,
      [&](int64_t group, int64_t segment, double* sums) { k.moments(task, group, segment, sums); },
      [&](int64_t group, double* sums, const double* next) { merge_moments(g.channels(group), sums, next); },
      [&](int64_t group, const double* sums) {
        const int64_t c0 = g.first_channel(group), channels = g.channels(group);
        for (int64_t i = 0; i < channels; ++i) {
          const double m2 = sums[1 + channels + i];
          const double rounded = means.set(c0 + i, sums[1 + i]);
          coefficients.normalize(c0 + i, rounded, vars.set(c0 + i, m2 < 0 ? 0 : m2 / count));
        }
      },
      [&](int64_t group, int64_t segment) { normalize(task, group, segment); });
  return {out, mean, var};
}

Tensor normalize(const Tensor& input, const Tensor& mean, const Tensor& var, const OptionalTensor& weight,
                 const OptionalTensor& bias, const OptionalTensor& residual, double eps, int64_t activation,
                 int64_t avg_pool) {
  const char* op = "normalize";
  check_activation(op, activation);
  const Batch batch(op, input, true, avg_pool);
  const Geometry& g = batch.geometry;
  const Tensor out = batch.empty_like(batch.windows.size);
  const Tensor m = batch.channels(mean, "mean"), v = batch.channels(var, "var");
  const OptionalTensor added = residual ? OptionalTensor(batch.like(*residual, "residual")) : residual;
  const ChannelValues means(batch, m), vars(batch, v);
  Coefficients coefficients(batch, weight, bias, eps);
  for (int64_t c = 0; c < g.C; ++c) coefficients.normalize(c, means.get(c), vars.get(c));
  Task task = batch.task();
  batch.write_to(out, task, PAST_CACHE_IN_PREDICTION);
  task.residual = added ? added->const_data_ptr() : nullptr;
  coefficients.pass_to(task);
  one_pass(g, [&](int64_t group, int64_t segment) {
    batch.kernels().normalize[activation][batch.besides(residual)](task, group, segment);
  });
  return out;
}

}  // namespace batchnorm
