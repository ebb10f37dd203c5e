// exp, sigmoid, tanh and the normal distribution for vectors, to a few units in the last place.
//
// exp:   x = n ln2 + r, |r| <= ln2 / 2; e^r - 1 = r + r^2 q(r), q a polynomial; times 2^n.
// tanh:  e / (e + 2) with e = e^2x - 1, formed without cancellation near 0.
// Phi:   the upper tail is exp(-x^2/2) f(t) / (x + k) with t = (x - k) / (x + k), f a polynomial; the
//        same exp gives the density.
//
// The polynomials interpolate at Chebyshev nodes; coefficients.py computes them.

#pragma once

#include "vec.h"

namespace batchnorm::BATCHNORM_ISA {

template <class A> struct Constants;

template <> struct Constants<float> {
  static constexpr float ROUND = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  static constexpr float LN2_HIGH = 0x1.62e4p-1f, LN2_LOW = 0x1.7f7d1cp-20f;
  static constexpr float EXP_MIN = -88.0f, EXP_MAX = 88.8f;  // beyond: 0 and infinity
  static constexpr int MANTISSA = 23, BIAS = 127;
  static constexpr float Q[] = {0.5f, 0.16666576305560638f, 0.041666553762567638f, 0.0083632927530306023f,
                                0.0013926325618133462f};
@FLOAT_TAIL@
};

template <> struct Constants<double> {
  static constexpr double ROUND = 0x1.8p52;
  static constexpr double LN2_HIGH = 0x1.62e42fefap-1, LN2_LOW = 0x1.cf79abc9e3b39p-40;
  static constexpr double EXP_MIN = -709.0, EXP_MAX = 709.9;
  static constexpr int MANTISSA = 52, BIAS = 1023;
@DOUBLE_Q@
@DOUBLE_TAIL@
};

// The polynomial with these coefficients, lowest power first.
template <class A, int n> inline vec<A> polynomial(const A (&c)[n], vec<A> x) {
  vec<A> sum = x * c[n - 1] + c[n - 2];
#pragma GCC unroll 32
  for (int i = n - 3; i >= 0; --i) sum = sum * x + c[i];
  return sum;
}

// e^x = power * (1 + fraction), power = 2^n. NaN stays NaN.
template <class A> struct Exponential {
  vec<A> power, fraction;

  explicit Exponential(vec<A> x) {
    using K = Constants<A>;
    x = x > K::EXP_MAX ? vec<A>{} + K::EXP_MAX : x;
    x = x < K::EXP_MIN ? vec<A>{} + K::EXP_MIN : x;
    const vec<A> shifted = x * A(1.4426950408889634) + K::ROUND;
    const vec<A> n = shifted - K::ROUND;
    const vec<A> r = (x - n * K::LN2_HIGH) - n * K::LN2_LOW;
    fraction = r + r * r * polynomial<A>(K::Q, r);
    power = (vec<A>)(((mask<A>)shifted + K::BIAS) << K::MANTISSA);
  }
};

template <class A> inline vec<A> exp(vec<A> x) {
  const Exponential<A> e(x);
  return e.power + e.power * e.fraction;
}

template <class A> inline vec<A> sigmoid(vec<A> x) {
  const Exponential<A> e(-x);
  return A(1) / (e.power * (e.fraction + A(1)) + A(1));
}

template <class A> inline vec<A> tanh(vec<A> x) {
  const A most = sizeof(A) == 4 ? 10 : 20;  // tanh is 1 beyond
  vec<A> bounded = x > most ? vec<A>{} + most : x;
  bounded = bounded < -most ? vec<A>{} - most : bounded;
  const Exponential<A> e(bounded + bounded);
  const vec<A> minus_one = e.power * e.fraction + (e.power - A(1));
  return minus_one / (minus_one + A(2));
}

// Distribution and density of the normal distribution.
template <class A> struct Normal {
  vec<A> distribution, density;

  explicit Normal(vec<A> x) {
    using K = Constants<A>;
    const vec<A> size = x < A(0) ? -x : x;
    const vec<A> e = exp<A>(A(-0.5) * size * size);
    const vec<A> u = A(1) / (size + K::TAIL_K);
    const vec<A> tail = e * u * polynomial<A>(K::TAIL, A(1) - A(2) * K::TAIL_K * u);
    distribution = x < A(0) ? tail : A(1) - tail;
    density = e * A(0.3989422804014327);
  }
};

}  // namespace batchnorm::BATCHNORM_ISA
