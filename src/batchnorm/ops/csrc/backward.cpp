// Backward operators, through the batch's own statistics or with the statistics as constants.

#include "coefficients.h"
#include "operators.h"
#include "schedule.h"

namespace batchnorm {
namespace {

constexpr int64_t ASIDE_BYTES = 8 << 20;  // of a thread; more would not stay in a cache

// Where dz of a heavy activation, which a half type would round, waits for the second pass: a place for each
// thread, which takes a group through both.
class Aside {
 public:
  Aside(const Batch& batch, int64_t activation)
      : threads(threads_for(batch.geometry)), values(batch.geometry.group_values()) {
    const int64_t bytes = values * sizeof(float);
    const bool wanted = is_heavy(activation) && !batch.is_exact() && bytes <= ASIDE_BYTES;
    if (wanted && takes_whole_groups(batch.geometry, threads)) memory = batch.empty_sums(threads * values);
  }
  explicit operator bool() const { return memory.has_value(); }
  float* of_this_thread() const {
    uint32_t thread = 0;
    if (threads > 1) STABLE_TORCH_ERROR_CODE_CHECK(torch_get_thread_idx(&thread));
    return static_cast<float*>(memory->mutable_data_ptr()) + thread * values;
  }

 private:
  int64_t threads, values;
  OptionalTensor memory;
};

Gradients backward(const char* op, const Tensor& grad_output, const Tensor& input,
                   const OptionalTensor& weight, const OptionalTensor& bias, const OptionalTensor& residual,
                   const Tensor& mean, const Tensor& var, double eps, int64_t activation, int64_t avg_pool,
                   bool frozen) {
  check_activation(op, activation);
  const Batch batch(op, input, false, avg_pool);
  const Geometry& g = batch.geometry;
  const bool through_residual = residual.has_value() && activation != IDENTITY;
  const Tensor grad = batch.like(grad_output, "grad_output", batch.windows.size);
  const OptionalTensor added =
      through_residual ? OptionalTensor(batch.like(*residual, "residual")) : OptionalTensor();
  const Tensor m = batch.channels(mean, "mean"), v = batch.channels(var, "var");
  const Tensor grad_input = batch.empty_like(), grad_weight = batch.empty_channels(),
               grad_bias = batch.empty_channels();
  const Tensor grad_residual = through_residual ? batch.empty_like() : batch.empty();
  const ChannelValues means(batch, m), vars(batch, v);
  ChannelValues weights(batch, grad_weight), biases(batch, grad_bias);
  Coefficients coefficients(batch, weight, bias, eps);
  for (int64_t c = 0; c < g.C; ++c) coefficients.normalize(c, means.get(c), vars.get(c));

  Task task = batch.task();
  task.grad = grad.const_data_ptr();
  task.residual = added ? added->const_data_ptr() : nullptr;
  if (through_residual) batch.write_to(grad_residual, task);
  task.dz = task.out;
  batch.write_to(grad_input, task);
  // A heavy activation is evaluated once: dz stays in the cache, where grad_input will be.
  const bool keeps = is_heavy(activation) && batch.is_exact();
  if (keeps) task.stream = false;
  if (!through_residual) task.dz = keeps ? task.out : nullptr;
  task.frozen = frozen;
  coefficients.pass_to(task);

  const Kernels& k = batch.kernels();
  const Besides besides = batch.besides(residual);
  const Reduce gradients = k.gradients[activation][besides];
  Map input_gradient = k.input_gradient[activation][besides];
  Task second = task;
  const Aside aside(batch, activation);
  if (aside) {
    input_gradient = k.input_gradient_of_aside;
  } else if (task.dz && batch.is_exact() && (!task.stream || batch.channels_last())) {
    // The first pass wrote dz, and nothing was lost: the second starts from there. Not where dz went past the
    // cache and the group that it came from is still in it.
    second.grad = task.dz;
    input_gradient = k.input_gradient[IDENTITY][PLAIN];
  }
  const double count = static_cast<double>(batch.values_per_channel());
  if (count == 0)
    for (int64_t c = 0; c < g.C; ++c) weights.set(c, 0), biases.set(c, 0);
  two_passes(
      g, 2 * g.group_channels,
      [&](int64_t group, int64_t segment, double* sums) {
        if (!aside) return gradients(task, group, segment, sums);
        Task mine = task;
        mine.aside = aside.of_this_thread();
        gradients(mine, group, segment, sums);
      },
      [&](int64_t group, double* sums, const double* next) { add_sums(2 * g.channels(group), sums, next); },
      [&](int64_t group, const double* sums) {
        const int64_t c0 = g.first_channel(group), channels = g.channels(group);
        for (int64_t i = 0; i < channels; ++i) {
          const double var = vars.get(c0 + i);
          biases.set(c0 + i, sums[i]);
          weights.set(c0 + i, sums[channels + i] * coefficients.invstd(var));
          if (!frozen)
            coefficients.through_statistics(c0 + i, var, sums[i] / count, sums[channels + i] / count);
        }
      },
      [&](int64_t group, int64_t segment) {
        if (!aside) return input_gradient(second, group, segment);
        Task mine = second;
        mine.grad = aside.of_this_thread();
        input_gradient(mine, group, segment);
      });
  return {grad_input, grad_weight, grad_bias, grad_residual};
}

}  // namespace

Gradients batch_norm_backward(const Tensor& grad_output, const Tensor& input, const OptionalTensor& weight,
                              const OptionalTensor& bias, const OptionalTensor& residual, const Tensor& mean,
                              const Tensor& var, double eps, int64_t activation, int64_t avg_pool) {
  return backward("batch_norm_backward", grad_output, input, weight, bias, residual, mean, var, eps,
                  activation, avg_pool, false);
}

Gradients normalize_backward(const Tensor& grad_output, const Tensor& input, const Tensor& mean,
                             const Tensor& var, const OptionalTensor& weight, const OptionalTensor& bias,
                             const OptionalTensor& residual, double eps, int64_t activation,
                             int64_t avg_pool) {
  return backward("normalize_backward", grad_output, input, weight, bias, residual, mean, var, eps,
                  activation, avg_pool, true);
}

}  // namespace batchnorm
