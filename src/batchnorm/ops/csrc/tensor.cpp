// Checks, layouts and allocation. Direct shims are used where there is one: a call through the
// dispatcher by name costs about a microsecond.

#include "tensor.h"

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <stdexcept>
#include <string>

namespace batchnorm {
namespace {

using torch::headeronly::MemoryFormat;
using torch::headeronly::ScalarType;

constexpr int MAX_RANK = 64;  // of a torch tensor
constexpr ScalarType SCALAR_TYPES[DTYPES] = {ScalarType::Float, ScalarType::BFloat16, ScalarType::Half,
                                             ScalarType::Double};

// Torch's code of each of our dtypes.
int32_t code(Dtype dtype) {
  static const int32_t codes[DTYPES] = {aoti_torch_dtype_float32(), aoti_torch_dtype_bfloat16(),
                                        aoti_torch_dtype_float16(), aoti_torch_dtype_float64()};
  return codes[dtype];
}

int64_t value_bytes(Dtype dtype) { return dtype == FLOAT64 ? 8 : dtype == FLOAT32 ? 4 : 2; }

std::optional<Dtype> dtype_of(const Tensor& tensor) {
  int32_t found;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &found));
  for (int dtype = 0; dtype < DTYPES; ++dtype)
    if (code(Dtype(dtype)) == found) return Dtype(dtype);
  return {};
}

template <class Sizes> std::string shape_of(const Sizes& sizes) {
  std::string text = "(";
  for (const int64_t size : sizes) text += (text.size() > 1 ? ", " : "") + std::to_string(size);
  return text + ")";
}
std::string shape(const Tensor& tensor) { return shape_of(tensor.sizes()); }

// The strides of a dense tensor of these sizes.
void dense_strides(const int64_t* sizes, int64_t rank, bool channels_last, int64_t* strides) {
  int64_t step = 1;
  const auto place = [&](int64_t dim) {
    strides[dim] = step;
    step *= sizes[dim] > 1 ? sizes[dim] : 1;
  };
  if (channels_last) place(1);
  for (int64_t dim = rank - 1; dim >= 0; --dim)
    if (!channels_last || dim != 1) place(dim);
}

bool is_dense(const Tensor& tensor, bool channels_last) {
  const auto sizes = tensor.sizes(), strides = tensor.strides();
  int64_t expected[MAX_RANK];
  dense_strides(sizes.data(), sizes.size(), channels_last, expected);
  for (size_t dim = 0; dim < sizes.size(); ++dim) {
    if (sizes[dim] == 0) return true;
    if (sizes[dim] != 1 && strides[dim] != expected[dim]) return false;
  }
  return true;
}

double read(const void* data, Dtype dtype, int64_t index) {
  switch (dtype) {
    case FLOAT64:
      return static_cast<const double*>(data)[index];
    case BFLOAT16:
      return static_cast<float>(static_cast<const c10::BFloat16*>(data)[index]);
    case FLOAT16:
      return static_cast<float>(static_cast<const c10::Half*>(data)[index]);
    default:
      return static_cast<const float*>(data)[index];
  }
}

void write(void* data, Dtype dtype, int64_t index, double value) {
  switch (dtype) {
    case FLOAT64:
      static_cast<double*>(data)[index] = value;
      break;
    case BFLOAT16:
      static_cast<c10::BFloat16*>(data)[index] = static_cast<float>(value);
      break;
    case FLOAT16:
      static_cast<c10::Half*>(data)[index] = static_cast<float>(value);
      break;
    default:
      static_cast<float*>(data)[index] = static_cast<float>(value);
  }
}

}  // namespace

void refuse(const char* op, const char* argument, const std::string& expected, const std::string& got) {
  throw std::runtime_error(std::string(op) + ": " + argument + " expected " + expected + ", got " + got);
}

Batch::Batch(const char* op, const Tensor& input, bool one_pass, int64_t avg_pool)
    : tensor(input), op(op), last(false) {
  const int64_t rank = input.dim();
  if (rank < 2) refuse(op, "input", "shape (N, C, *spatial)", shape(input));
  const std::optional<Dtype> found = dtype_of(input);
  if (!found) refuse(op, "input", "float32, bfloat16, float16 or float64", "another dtype");
  dtype = *found;
  if (!is_dense(input, false)) {
    last = (rank == 4 || rank == 5) && is_dense(input, true);
    if (!last) tensor = torch::stable::contiguous(input);
  }
  const auto sizes = tensor.sizes();
  int64_t S = 1;
  for (int64_t dim = 2; dim < rank; ++dim) S *= sizes[dim];
  if (avg_pool != 1) choose_windows(avg_pool);
  geometry = cut(sizes[0], sizes[1], S, last, value_bytes(dtype), one_pass, windows.size * windows.line);
}

void Batch::choose_windows(int64_t avg_pool) {
  const auto sizes = tensor.sizes();
  if (avg_pool < 1 || last || sizes.size() != 4 || sizes[2] % avg_pool != 0 || sizes[3] % avg_pool != 0 ||
      avg_pool * sizes[3] > PIECE)
    refuse(op, "avg_pool", "1 or a size of whole windows of contiguous images", std::to_string(avg_pool));
  windows = {avg_pool, sizes[3]};
}

Besides Batch::besides(const OptionalTensor& residual) const {
  if (windows.size == 1) return residual ? RESIDUAL : PLAIN;
  if (residual) refuse(op, "avg_pool", "1 with a residual", std::to_string(windows.size));
  return AVERAGES;
}

size_t Batch::sizes_over(int64_t window, int64_t* sizes) const {
  const auto whole = tensor.sizes();
  for (size_t dim = 0; dim < whole.size(); ++dim) sizes[dim] = dim < 2 ? whole[dim] : whole[dim] / window;
  return whole.size();
}

Tensor Batch::like(const Tensor& other, const char* name, int64_t window) const {
  int64_t sizes[MAX_RANK];
  const size_t rank = sizes_over(window, sizes);
  const auto others = other.sizes();
  bool same = rank == others.size();
  for (size_t dim = 0; same && dim < rank; ++dim) same = sizes[dim] == others[dim];
  if (!same) refuse(op, name, "shape " + shape_of(std::vector<int64_t>(sizes, sizes + rank)), shape(other));
  const std::optional<Dtype> found = dtype_of(other);
  if (found == dtype && is_dense(other, last)) return other;
  const MemoryFormat format = !last               ? MemoryFormat::Contiguous
                              : rank == 4 ? MemoryFormat::ChannelsLast
                                                  : MemoryFormat::ChannelsLast3d;
  if (found == dtype) return torch::stable::contiguous(other, format);
  return torch::stable::to(other, SCALAR_TYPES[dtype], std::nullopt, std::nullopt, std::nullopt, false, true,
                           format);
}

Tensor Batch::empty_like(int64_t window) const {
  int64_t sizes[MAX_RANK], strides[MAX_RANK];
  const size_t rank = sizes_over(window, sizes);
  dense_strides(sizes, rank, last, strides);
  return new_output(sizes, strides, rank, code(dtype), bytes() / (window * window));
}

Tensor Batch::empty() const {
  const int64_t size = 0, stride = 1;
  return new_output(&size, &stride, 1, code(dtype), 0);
}

Tensor Batch::empty_sums(int64_t size) const {
  const Dtype wanted = is_double() ? FLOAT64 : FLOAT32;
  const int64_t stride = 1;
  return new_output(&size, &stride, 1, code(wanted), size * value_bytes(wanted));
}

Tensor Batch::channels(const Tensor& other, const char* name) const {
  if (other.dim() != 1 || other.sizes()[0] != geometry.C)
    refuse(op, name, "shape (" + std::to_string(geometry.C) + ",)", shape(other));
  const Dtype wanted = is_double() ? FLOAT64 : FLOAT32;
  const std::optional<Dtype> found = dtype_of(other);
  if (!found) refuse(op, name, "a floating dtype", "another dtype");
  if (found == wanted && is_dense(other, false)) return other;
  return torch::stable::to(other, SCALAR_TYPES[wanted], std::nullopt, std::nullopt, std::nullopt, false, true,
                           MemoryFormat::Contiguous);
}

std::vector<double> Batch::parameter(const OptionalTensor& given, const char* name, double missing) const {
  std::vector<double> values(geometry.C, missing);
  if (!given) return values;
  const Vector vector(op, *given, name);
  if (vector.size() != geometry.C)
    refuse(op, name, "shape (" + std::to_string(geometry.C) + ",)", shape(*given));
  for (int64_t c = 0; c < geometry.C; ++c) values[c] = vector.get(c);
  return values;
}

int64_t Batch::bytes() const { return tensor.numel() * value_bytes(dtype); }
double Batch::value(int64_t index) const { return read(tensor.const_data_ptr(), dtype, index); }

Task Batch::task() const {
  Task task{};
  task.geometry = geometry;
  task.x = tensor.const_data_ptr();
  task.windows = windows;
  return task;
}

void Batch::write_to(const Tensor& out, Task& task, int64_t past_cache) const {
  task.out = out.mutable_data_ptr();
  task.stream = bytes() >= past_cache;
}

Vector::Vector(const char* op, const Tensor& tensor, const char* name) : data(tensor.mutable_data_ptr()) {
  const std::optional<Dtype> found = dtype_of(tensor);
  if (tensor.dim() != 1) refuse(op, name, "shape (C,)", shape(tensor));
  if (!found) refuse(op, name, "float32, bfloat16, float16 or float64", "another dtype");
  dtype = *found;
  length = tensor.sizes()[0];
  stride = tensor.strides()[0];
}

double Vector::get(int64_t c) const { return read(data, dtype, c * stride); }
void Vector::set(int64_t c, double value) const { write(data, dtype, c * stride, value); }

int64_t* counter(const char* op, const Tensor& tensor) {
  int32_t found;
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(tensor.get(), &found));
  if (found != aoti_torch_dtype_int64()) refuse(op, "num_batches_tracked", "int64", "another dtype");
  if (tensor.numel() != 1) refuse(op, "num_batches_tracked", "one value", shape(tensor));
  return static_cast<int64_t*>(tensor.mutable_data_ptr());
}

void check_activation(const char* op, int64_t activation) {
  if (activation < 0 || activation >= ACTIVATIONS)
    refuse(op, "activation", "0 to " + std::to_string(ACTIVATIONS - 1), std::to_string(activation));
}

}  // namespace batchnorm
