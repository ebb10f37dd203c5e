// The activations and their derivatives.
//
// Selections are written so that NaN comes out as NaN, and at a kink the derivative is the one that
// torch's own backward takes.

#pragma once

#include <type_traits>

#include "kernels.h"
#include "math.h"

namespace batchnorm::BATCHNORM_ISA {

// Whether `gradients` may keep dz for the pass after it, which then evaluates no activation: in dx's place where
// storing it loses nothing, else aside.
template <int activation, class T> constexpr bool may_keep = is_heavy(activation) && is_exact<T>;
template <int activation, class T> constexpr bool may_keep_aside = is_heavy(activation) && !is_exact<T>;

template <class A> inline vec<A> clamp_zero_six(vec<A> z) { return at_most(at_least(z, 0), 6); }

template <int activation, class A> inline vec<A> activate(vec<A> z) {
  if constexpr (activation == RELU) return at_least(z, 0);
  if constexpr (activation == LEAKY_RELU) return A(0) > z ? z * A(0.01) : z;
  if constexpr (activation == RELU6) return clamp_zero_six<A>(z);
  if constexpr (activation == SIGMOID) return sigmoid<A>(z);
  if constexpr (activation == TANH) return tanh<A>(z);
  if constexpr (activation == SILU) return z * sigmoid<A>(z);
  if constexpr (activation == GELU) return z * Normal<A>(z).distribution;
  if constexpr (activation == HARDSWISH) return z * clamp_zero_six<A>(z + A(3)) * A(1.0 / 6);
  return z;
}

// grad * act'(z)
template <int activation, class A> inline vec<A> through(vec<A> grad, vec<A> z) {
  const vec<A> zero{};
  if constexpr (activation == RELU) return z > A(0) ? grad : zero;
  if constexpr (activation == LEAKY_RELU) return z > A(0) ? grad : grad * A(0.01);
  if constexpr (activation == RELU6) return ((z > A(0)) & (z < A(6))) ? grad : zero;
  if constexpr (activation == SIGMOID) {
    const vec<A> s = sigmoid<A>(z);
    return grad * (s * (A(1) - s));
  }
  if constexpr (activation == TANH) {
    const vec<A> t = tanh<A>(z);
    return grad * (A(1) - t * t);
  }
  if constexpr (activation == SILU) {
    const vec<A> s = sigmoid<A>(z);
    return grad * (s * (A(1) + z * (A(1) - s)));
  }
  if constexpr (activation == GELU) {
    const Normal<A> normal(z);
    return grad * (normal.distribution + z * normal.density);
  }
  if constexpr (activation == HARDSWISH) {
    const vec<A> inner = z < A(3) ? grad * (z * A(1.0 / 3) + A(0.5)) : grad;
    return z <= A(-3) ? zero : inner;
  }
  return grad;
}

}  // namespace batchnorm::BATCHNORM_ISA
