// exp, sigmoid, tanh and the normal distribution for vectors, to a few units in the last place.
//
// exp:   x = n ln2 + r, |r| <= ln2 / 2; e^r - 1 = r + r^2 q(r), q a polynomial; times 2^n.
// tanh:  e / (e + 2) with e = e^2x - 1, formed without cancellation near 0.
// Phi:   the upper tail is exp(-x^2/2) f(t) / (x + k) with t = (x - k) / (x + k), f a polynomial; the
//        same exp gives the density.
//
// The polynomials interpolate at Chebyshev nodes; tools/kernel_polynomials.py computes them.

#pragma once

#include "vec.h"

namespace batchnorm::BATCHNORM_ISA {

template <class A> struct Constants;

template <> struct Constants<float> {
  static constexpr float ROUND = 0x1.8p23f;  // adding it leaves the nearest integer in the low bits
  static constexpr float LN2_HIGH = 0x1.62e4p-1f, LN2_LOW = 0x1.7f7d1cp-20f;
  static constexpr float EXP_MIN = -88.0f, EXP_MAX = 88.8f;  // beyond: 0 and infinity
  static constexpr int MANTISSA = 23, BIAS = 127;
  static constexpr float Q[] = {0.5f, 0.166665763f, 0.0416665538f, 0.00836329275f, 0.00139263256f};
  static constexpr float TAIL_K = 4;
  static constexpr float TAIL[] = {0.755285127f,    -0.607896596f,   0.387137559f,    -0.186524184f,
                                   0.0603953134f,   -0.00752125553f, -0.00347619646f, 0.00157575208f,
                                   0.000129340123f, -0.000162616316f};
};

template <> struct Constants<double> {
  static constexpr double ROUND = 0x1.8p52;
  static constexpr double LN2_HIGH = 0x1.62e42fefap-1, LN2_LOW = 0x1.cf79abc9e3b39p-40;
  static constexpr double EXP_MIN = -709.0, EXP_MAX = 709.9;
  static constexpr int MANTISSA = 52, BIAS = 1023;
  static constexpr double Q[] = {0.5,
                                 0.166666666666666711,
                                 0.0416666666666666698,
                                 0.00833333333332602495,
                                 0.00138888888888836696,
                                 0.000198412698752050768,
                                 0.0000248015873258222821,
                                 2.7557254913486702e-6,
                                 2.75572732955397243e-7,
                                 2.51054191920163364e-8,
                                 2.09148313513804106e-9};
  static constexpr double TAIL_K = 5;
  static constexpr double TAIL[] = {
      0.76919304975006296,      -0.665382502890057685,   0.49530561596997679,       -0.313533156671213766,
      0.165020366170342813,     -0.0691186387088143283,  0.0207950668009416154,     -0.00299337673822322163,
      -0.00079786940948080803,  0.000544898830900940452, -0.0000593756732864781868, -0.0000497617711898310696,
      0.0000166810991158244887, 3.97791264068332274e-6,  -2.76933787095356318e-6,   -3.31069807283583674e-7,
      4.34026259351774192e-7,   3.58184006313687464e-8,  -6.78255530167041353e-8,   -5.01564999702551887e-9,
      9.44682746237612205e-9,   5.03730224661494702e-10, -8.16619250391294472e-10};
};

// The polynomial with these coefficients, lowest power first.
template <class A, int n> inline vec<A> polynomial(const A (&c)[n], vec<A> x) {
  vec<A> sum = x * c[n - 1] + c[n - 2];
#pragma GCC unroll 32
  for (int i = n - 3; i >= 0; --i) sum = sum * x + c[i];
  return sum;
}

// x = n ln2 + r: power = 2^n, and e^r = 1 + r (1 + r q). NaN stays NaN.
template <class A> struct Reduced {
  vec<A> power, r, q;

  explicit Reduced(vec<A> x) {
    using K = Constants<A>;
    x = at_least(at_most(x, K::EXP_MAX), K::EXP_MIN);
    const vec<A> shifted = x * A(1.4426950408889634) + K::ROUND;
    const vec<A> n = shifted - K::ROUND;
    r = (x - n * K::LN2_HIGH) - n * K::LN2_LOW;
    q = polynomial<A>(K::Q, r);
    power = (vec<A>)(((mask<A>)shifted + K::BIAS) << K::MANTISSA);
  }
  vec<A> exp() const { return power * (A(1) + r * (A(1) + r * q)); }
  // Relative error small near x = 0 too.
  vec<A> exp_minus_one() const { return power * (r + r * r * q) + (power - A(1)); }
};

template <class A> inline vec<A> sigmoid(vec<A> x) { return A(1) / (A(1) + Reduced<A>(-x).exp()); }

template <class A> inline vec<A> tanh(vec<A> x) {
  const A one_beyond = sizeof(A) == 4 ? 10 : 20;
  const vec<A> e = Reduced<A>(A(2) * at_least(at_most(x, one_beyond), -one_beyond)).exp_minus_one();
  return e / (e + A(2));
}

// Distribution and density of the normal distribution.
template <class A> struct Normal {
  vec<A> distribution, density;

  explicit Normal(vec<A> x) {
    using K = Constants<A>;
    const vec<A> size = x < A(0) ? -x : x;
    const vec<A> e = Reduced<A>(A(-0.5) * size * size).exp();
    const vec<A> u = A(1) / (size + K::TAIL_K);
    const vec<A> tail = e * u * polynomial<A>(K::TAIL, A(1) - A(2) * K::TAIL_K * u);
    distribution = x < A(0) ? tail : A(1) - tail;
    density = e * A(0.3989422804014327);
  }
};

}  // namespace batchnorm::BATCHNORM_ISA
