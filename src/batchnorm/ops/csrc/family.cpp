// The kernels of one dtype for one instruction set: this file is compiled once for each pair, with
// BATCHNORM_ISA and BATCHNORM_DTYPE and the instruction set's flags.

#include "columns.h"
#include "rows.h"

namespace batchnorm::BATCHNORM_ISA {

template <template <class> class View, class T, int activation> constexpr void list(Kernels& k) {
  using K = View<T>;
  k.normalize[activation][PLAIN] = K::template normalize<activation, PLAIN>;
  k.normalize[activation][RESIDUAL] = K::template normalize<activation, RESIDUAL>;
  k.normalize[activation][AVERAGES] = K::template normalize<activation, AVERAGES>;
  // without an activation the residual's gradient is the output's: nothing reads or writes it
  constexpr Besides residual = activation == IDENTITY ? PLAIN : RESIDUAL;
  k.gradients[activation][PLAIN] = K::template gradients<activation, PLAIN>;
  k.gradients[activation][RESIDUAL] = K::template gradients<activation, residual>;
  k.gradients[activation][AVERAGES] = K::template gradients<activation, AVERAGES>;
  k.input_gradient[activation][PLAIN] = K::template input_gradient<activation, PLAIN>;
  k.input_gradient[activation][RESIDUAL] = K::template input_gradient<activation, residual>;
  // else `gradients` has kept dz
  if constexpr (!may_keep<activation, T>)
    k.input_gradient[activation][AVERAGES] = K::template input_gradient<activation, AVERAGES>;
  if constexpr (activation + 1 < ACTIVATIONS) list<View, T, activation + 1>(k);
}

template <template <class> class View, class T> constexpr Kernels all() {
  Kernels k{};
  k.moments = View<T>::moments;
  list<View, T, 0>(k);
  if constexpr (!is_exact<T>) k.input_gradient_of_aside = View<T>::template input_gradient<IDENTITY, PLAIN, true>;
  return k;
}

#define BATCHNORM_NAME_OF(dtype) family_##dtype
#define BATCHNORM_NAME(dtype) BATCHNORM_NAME_OF(dtype)

extern const Family BATCHNORM_NAME(BATCHNORM_DTYPE);
constinit const Family BATCHNORM_NAME(BATCHNORM_DTYPE) = {all<Rows, BATCHNORM_DTYPE>(),
                                                          all<Columns, BATCHNORM_DTYPE>()};

}  // namespace batchnorm::BATCHNORM_ISA
