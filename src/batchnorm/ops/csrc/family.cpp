// The kernels of one dtype for one instruction set: this file is compiled once for each pair, with
// BATCHNORM_ISA and BATCHNORM_DTYPE and the instruction set's flags.

#include "columns.h"
#include "rows.h"

namespace batchnorm::BATCHNORM_ISA {

template <template <class> class View, class T, int activation> constexpr void list(Kernels& k) {
  using K = View<T>;
  k.normalize[activation][0] = K::template normalize<activation, false>;
  k.normalize[activation][1] = K::template normalize<activation, true>;
  k.gradients[activation][0] = K::template gradients<activation, false>;
  // without an activation the residual's gradient is the output's: nothing reads or writes it
  k.gradients[activation][1] = K::template gradients<activation, activation != IDENTITY>;
  k.input_gradient[activation][0] = K::template input_gradient<activation, false>;
  k.input_gradient[activation][1] = K::template input_gradient<activation, activation != IDENTITY>;
  if constexpr (activation + 1 < ACTIVATIONS) list<View, T, activation + 1>(k);
}

template <template <class> class View, class T> constexpr Kernels all() {
  Kernels k{};
  k.moments = View<T>::moments;
  list<View, T, 0>(k);
  if constexpr (!is_exact<T>) k.input_gradient_of_aside = View<T>::template input_gradient<IDENTITY, false, true>;
  return k;
}

#define BATCHNORM_NAME_OF(dtype) family_##dtype
#define BATCHNORM_NAME(dtype) BATCHNORM_NAME_OF(dtype)

extern const Family BATCHNORM_NAME(BATCHNORM_DTYPE);
constinit const Family BATCHNORM_NAME(BATCHNORM_DTYPE) = {all<Rows, BATCHNORM_DTYPE>(),
                                                          all<Columns, BATCHNORM_DTYPE>()};

}  // namespace batchnorm::BATCHNORM_ISA
