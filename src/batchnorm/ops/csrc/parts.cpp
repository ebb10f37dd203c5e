// The pieces of a step whose statistics are not simply the batch's own: those of parts of the batch, of
// several processes together, corrected towards the running ones, ...
//
//   moments          count, mean and M2 of each part
//   forward_apply    y = act((x - mean) * scale + shift + residual)
//   backward_reduce  sum(dz) and sum(dz * (x - mean)) of each part
//   backward_apply   dx = dz * scale + (x - mean) * slope + offset
//
// A part is `sizes[p]` consecutive samples; statistics and coefficients are (P, C), a row a part.

#include <numeric>

#include "operators.h"
#include "schedule.h"

namespace batchnorm {
namespace {

using Sizes = std::vector<int64_t>;
using Matrices = std::vector<Tensor>;

// A whole batch in a layout that the kernels read, cut into its parts one after the other.
class Parts {
 public:
  Parts(const char* op, const Tensor& input, const Sizes& sizes, bool one_pass)
      : op(op), whole(op, input, one_pass), one_pass(one_pass), sizes(sizes) {
    const int64_t samples = std::accumulate(sizes.begin(), sizes.end(), int64_t{0});
    if (samples != whole.geometry.N)
      refuse(op, "sizes", std::to_string(whole.geometry.N) + " samples", std::to_string(samples));
  }

  int64_t rows() const { return static_cast<int64_t>(sizes.size()); }
  int64_t channels() const { return whole.geometry.C; }

  // body(part, its number, its samples of the given tensors...)
  template <class F, class... Tensors> void each(const F& body, const Tensors&... tensors) const {
    int64_t first = 0;
    for (int64_t p = 0; p < rows(); first += sizes[p++]) {
      if (sizes[p] == 0) continue;
      body(Batch(op, part(whole.tensor, first, sizes[p]), one_pass), p, part(tensors, first, sizes[p])...);
    }
  }

  // (P, C) coefficients in the accumulation dtype: the given ones, or a copy.
  Tensor matrix(const Tensor& tensor, const char* name) const {
    const auto found = tensor.sizes();
    if (found.size() != 2 || found[0] != rows() || found[1] != channels())
      refuse(op, name, "shape (" + std::to_string(rows()) + ", " + std::to_string(channels()) + ")",
             "another");
    const auto type = whole.is_double() ? torch::headeronly::ScalarType::Double
                                        : torch::headeronly::ScalarType::Float;
    const Tensor values = tensor.scalar_type() == type ? tensor : torch::stable::to(tensor, type);
    return torch::stable::contiguous(values);
  }
  // A part's row of each matrix; they come in the order of `Coefficient`.
  void pass_to(Task& task, int64_t p, const Matrices& matrices) const {
    const int64_t row_bytes = channels() * (whole.is_double() ? sizeof(double) : sizeof(float));
    for (size_t which = 0; which < matrices.size(); ++which)
      task.coefficient[which] = static_cast<const char*>(matrices[which].const_data_ptr()) + p * row_bytes;
  }

  const char* op;
  Batch whole;

 private:
  static Tensor part(const Tensor& tensor, int64_t first, int64_t size) {
    Tensor whole = tensor;
    return tensor.numel() == 0 ? tensor : torch::stable::narrow(whole, 0, first, size);
  }

  bool one_pass;
  const Sizes& sizes;
};

// (P,) zeros, or (P, C) if there are columns, in float64, whatever the input's dtype: they are added up over processes.
Tensor zeros(const Batch& batch, int64_t rows, int64_t columns) {
  return torch::stable::new_zeros(batch.tensor, columns ? Sizes{rows, columns} : Sizes{rows},
                                  torch::headeronly::ScalarType::Double);
}
double* doubles(const Tensor& tensor, int64_t place) {
  return static_cast<double*>(tensor.mutable_data_ptr()) + place;
}

const auto NOTHING = [](int64_t, int64_t) {};

}  // namespace

std::tuple<Tensor, Tensor, Tensor> moments(const Tensor& input, const Sizes& sizes) {
  const Parts parts("moments", input, sizes, false);
  const int64_t P = parts.rows(), C = parts.channels();
  const Tensor count = zeros(parts.whole, P, 0), mean = zeros(parts.whole, P, C),
               m2 = zeros(parts.whole, P, C);
  parts.each([&](const Batch& batch, int64_t p) {
    const Geometry& g = batch.geometry;
    const Task task = batch.task();
    *doubles(count, p) = static_cast<double>(batch.values_per_channel());
    two_passes(
        g, 1 + 2 * g.group_channels,
        [&](int64_t group, int64_t segment, double* sums) {
          batch.kernels().moments(task, group, segment, sums);
        },
        [&](int64_t group, double* sums, const double* next) { merge_moments(g.channels(group), sums, next); },
        [&](int64_t group, const double* sums) {
          const int64_t channels = g.channels(group), at = p * C + g.first_channel(group);
          for (int64_t i = 0; i < channels; ++i) {
            *doubles(mean, at + i) = sums[1 + i];
            *doubles(m2, at + i) = sums[1 + channels + i] < 0 ? 0 : sums[1 + channels + i];
          }
        },
        NOTHING);
  });
  return {count, mean, m2};
}

Tensor forward_apply(const Tensor& input, const Tensor& mean, const Tensor& scale, const Tensor& shift,
                     const OptionalTensor& residual, const Sizes& sizes, int64_t activation) {
  const Parts parts("forward_apply", input, sizes, true);
  check_activation(parts.op, activation);
  const Matrices coefficients = {parts.matrix(mean, "mean"), parts.matrix(scale, "scale"),
                                 parts.matrix(shift, "shift")};
  const Tensor out = parts.whole.empty_like(),
               added = residual ? parts.whole.like(*residual, "residual") : parts.whole.empty();
  parts.each(
      [&](const Batch& batch, int64_t p, const Tensor& y, const Tensor& r) {
        Task task = batch.task();
        batch.write_to(y, task);
        task.residual = residual ? r.const_data_ptr() : nullptr;
        parts.pass_to(task, p, coefficients);
        const Map normalize = batch.kernels().normalize[activation][residual.has_value()];
        one_pass(batch.geometry, [&](int64_t group, int64_t segment) { normalize(task, group, segment); });
      },
      out, added);
  return out;
}

std::tuple<Tensor, Tensor, Tensor> backward_reduce(const Tensor& grad_output, const Tensor& input,
                                                   const Tensor& mean, const Tensor& scale,
                                                   const Tensor& shift, const OptionalTensor& residual,
                                                   const Sizes& sizes, int64_t activation) {
  const Parts parts("backward_reduce", input, sizes, false);
  check_activation(parts.op, activation);
  const int64_t P = parts.rows(), C = parts.channels();
  const bool through_residual = residual.has_value() && activation != IDENTITY;
  const Matrices coefficients = {parts.matrix(mean, "mean"), parts.matrix(scale, "scale"),
                                 parts.matrix(shift, "shift")};
  const Tensor grad = parts.whole.like(grad_output, "grad_output"),
               added = through_residual ? parts.whole.like(*residual, "residual") : parts.whole.empty(),
               grad_residual = through_residual ? parts.whole.empty_like() : parts.whole.empty();
  const Tensor first = zeros(parts.whole, P, C), second = zeros(parts.whole, P, C);
  parts.each(
      [&](const Batch& batch, int64_t p, const Tensor& dy, const Tensor& r, const Tensor& dr) {
        const Geometry& g = batch.geometry;
        Task task = batch.task();
        task.grad = dy.const_data_ptr();
        task.residual = through_residual ? r.const_data_ptr() : nullptr;
        task.dz = through_residual ? dr.mutable_data_ptr() : nullptr;
        parts.pass_to(task, p, coefficients);
        const Reduce gradients = batch.kernels().gradients[activation][through_residual];
        two_passes(
            g, 2 * g.group_channels,
            [&](int64_t group, int64_t segment, double* sums) { gradients(task, group, segment, sums); },
            [&](int64_t group, double* sums, const double* next) {
              add_sums(2 * g.channels(group), sums, next);
            },
            [&](int64_t group, const double* sums) {
              const int64_t channels = g.channels(group), at = p * C + g.first_channel(group);
              for (int64_t i = 0; i < channels; ++i) {
                *doubles(first, at + i) = sums[i];
                *doubles(second, at + i) = sums[channels + i];
              }
            },
            NOTHING);
      },
      grad, added, grad_residual);
  return {first, second, grad_residual};
}

Tensor backward_apply(const Tensor& grad_output, const Tensor& input, const Tensor& mean, const Tensor& scale,
                      const Tensor& shift, const Tensor& slope, const Tensor& offset,
                      const OptionalTensor& residual, const Sizes& sizes, int64_t activation) {
  const Parts parts("backward_apply", input, sizes, true);
  check_activation(parts.op, activation);
  const bool through_residual = residual.has_value() && activation != IDENTITY;
  const Matrices coefficients = {parts.matrix(mean, "mean"), parts.matrix(scale, "scale"),
                                 parts.matrix(shift, "shift"), parts.matrix(slope, "slope"),
                                 parts.matrix(offset, "offset")};
  const Tensor grad = parts.whole.like(grad_output, "grad_output"), grad_input = parts.whole.empty_like(),
               added = through_residual ? parts.whole.like(*residual, "residual") : parts.whole.empty();
  parts.each(
      [&](const Batch& batch, int64_t p, const Tensor& dy, const Tensor& r, const Tensor& dx) {
        Task task = batch.task();
        task.grad = dy.const_data_ptr();
        task.residual = through_residual ? r.const_data_ptr() : nullptr;
        batch.write_to(dx, task);
        parts.pass_to(task, p, coefficients);
        const Map input_gradient = batch.kernels().input_gradient[activation][through_residual];
        one_pass(batch.geometry, [&](int64_t group, int64_t segment) { input_gradient(task, group, segment); });
      },
      grad, added, grad_input);
  return grad_input;
}

}  // namespace batchnorm
