// Vectors of the instruction set this file is compiled for, and how tensors are loaded into them.
//
// GCC's vector extension spells arithmetic, comparison and selection like scalars and compiles for any
// machine (SSE2, AVX2, AVX-512, NEON); intrinsics appear only where it has no word: float16 on x86.
// A value never depends on which lane computed it.

#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "geometry.h"

#if defined(__SSE2__)
#include <immintrin.h>
#endif

#ifndef BATCHNORM_ISA
#error "BATCHNORM_ISA names the namespace of this instruction set"
#endif

namespace batchnorm::BATCHNORM_ISA {

#if defined(__AVX512F__)
constexpr int VECTOR_BYTES = 64;
#elif defined(__AVX2__)
constexpr int VECTOR_BYTES = 32;
#else
constexpr int VECTOR_BYTES = 16;
#endif

using float32 = float;
using float64 = double;
struct bfloat16 {
  uint16_t bits;
};
struct float16 {
  uint16_t bits;
};

template <class T> struct Accumulator {
  using type = float;
};
template <> struct Accumulator<double> {
  using type = double;
};
// The type in which values of storage type T are computed.
template <class T> using acc_t = typename Accumulator<T>::type;
template <class T> constexpr bool is_exact = std::is_same_v<T, acc_t<T>>;  // stored as it is computed

template <class A, int bytes = VECTOR_BYTES> struct VectorOf {
  typedef A type __attribute__((vector_size(bytes)));
};
template <class A> using vec = typename VectorOf<A>::type;
// Lane masks: all ones or all zeros, as comparisons return them.
template <class A> using mask = decltype(vec<A>{} < vec<A>{});
template <class A> constexpr int LANES = VECTOR_BYTES / sizeof(A);

using u16s = VectorOf<uint16_t, VECTOR_BYTES / 2>::type;
using u32s = vec<uint32_t>;
using floats = vec<float>;
using doubles = vec<double>;

template <class V> inline V load_raw(const void* p) {
  V v;
  std::memcpy(&v, p, sizeof v);
  return v;
}
template <class V> inline void store_raw(void* p, V v) { std::memcpy(p, &v, sizeof v); }

// GCC's own conversions between these take three or four instructions.
inline u32s widen(u16s v) {
#if defined(__AVX512F__)
  return (u32s)_mm512_cvtepu16_epi32((__m256i)v);
#elif defined(__AVX2__)
  return (u32s)_mm256_cvtepu16_epi32((__m128i)v);
#else
  return __builtin_convertvector(v, u32s);
#endif
}
// Of values below 2^16.
inline u16s narrow(u32s v) {
#if defined(__AVX512F__)
  return (u16s)_mm512_cvtepi32_epi16((__m512i)v);
#elif defined(__AVX2__)
  return (u16s)_mm_packus_epi32(_mm256_castsi256_si128((__m256i)v), _mm256_extracti128_si256((__m256i)v, 1));
#else
  return __builtin_convertvector(v, u16s);
#endif
}

inline doubles load(const double* p) { return load_raw<doubles>(p); }
inline floats load(const float* p) { return load_raw<floats>(p); }
inline floats load(const bfloat16* p) { return (floats)(widen(load_raw<u16s>(p)) << 16); }

// What is stored of a vector: `pack<T>` converts to T and rounds to nearest, ties to even.
template <class T> struct Packed {
  using type = vec<T>;
};
template <> struct Packed<bfloat16> {
  using type = u16s;
};
template <> struct Packed<float16> {
  using type = u16s;
};
template <class T> inline typename Packed<T>::type pack(vec<acc_t<T>> v) { return v; }

#if defined(__AVX512F__)
// As below, in half the instructions.
template <> inline u16s pack<bfloat16>(floats v) {
  const __m512i one_nan = _mm512_set1_epi32(0x33);  // both kinds become the usual one, which is not rounded up
  const __m512i bits = (__m512i)_mm512_fixupimm_ps((__m512)v, (__m512)v, one_nan, 0);
  constexpr int OR_AND = 0xf8;  // a | (b & c)
  const __m512i above_half =
      _mm512_ternarylogic_epi32(bits, _mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1), OR_AND);
  const __m512i rounded = _mm512_add_epi32(above_half, _mm512_set1_epi32(0x7fff));
  alignas(64) static constexpr uint16_t HIGH[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
  return (u16s)_mm512_castsi512_si256(_mm512_permutexvar_epi16(_mm512_load_si512(HIGH), rounded));
}
#else
template <> inline u16s pack<bfloat16>(floats v) {
  const u32s bits = (u32s)v;
  // half a unit in the last place of an odd value is more than half
  const u32s rounded = ((bits | ((bits >> 16) & 1)) + 0x7fff) >> 16;
  return narrow(v == v ? rounded : (bits >> 16) | 0x40);
}
#endif

#if defined(__AVX512F__)
inline floats load(const float16* p) { return (floats)_mm512_cvtph_ps(load_raw<__m256i>(p)); }
template <> inline u16s pack<float16>(floats v) { return (u16s)_mm512_cvtps_ph((__m512)v, 0); }
#elif defined(__AVX2__)
inline floats load(const float16* p) { return (floats)_mm256_cvtph_ps(load_raw<__m128i>(p)); }
template <> inline u16s pack<float16>(floats v) { return (u16s)_mm256_cvtps_ph((__m256)v, 0); }
#else
inline floats load(const float16* p) {
  const u32s half = widen(load_raw<u16s>(p));
  const u32s magnitude = (half & 0x7fff) << 13;
  // Read with float32's exponent bias, a half is 2^112 too small; so are its subnormals.
  const u32s finite = (u32s)((floats)magnitude * 0x1p112f);
  const u32s bits = magnitude >= (0x7c00u << 13) ? magnitude | 0x7f800000 : finite;
  return (floats)(bits | (half & 0x8000) << 16);
}
template <> inline u16s pack<float16>(floats v) {
  const u32s bits = (u32s)v, sign = (bits >> 16) & 0x8000, magnitude = bits & 0x7fffffff;
  // Normal halves: round the low 13 bits to even, then move the exponent bias from 127 to 15.
  const u32s normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112u << 23)) >> 13;
  // Subnormal ones: adding 1/2 leaves the float32 unit in the last place at 2^-24, a half's smallest.
  const u32s subnormal = (u32s)((floats)magnitude + 0.5f) - 0x3f000000u;
  u32s half = magnitude < (113u << 23) ? subnormal : normal;
  half = magnitude >= 0x477ff000u ? u32s{} + 0x7c00u : half;  // 65520 and above round to infinity
  half = v == v ? half : (u32s{} + 0x7e00u);
  return narrow(half | sign);
}
#endif

template <class T> inline void store(T* p, vec<acc_t<T>> v) { store_raw(p, pack<T>(v)); }

// The smaller or larger of v and a bound; NaN stays NaN.
inline floats at_most(floats v, float bound) {
  const floats b = floats{} + bound;
#if defined(__AVX512F__)
  return (floats)_mm512_min_ps((__m512)b, (__m512)v);
#elif defined(__AVX2__)
  return (floats)_mm256_min_ps((__m256)b, (__m256)v);
#else
  return b < v ? b : v;
#endif
}
inline floats at_least(floats v, float bound) {
  const floats b = floats{} + bound;
#if defined(__AVX512F__)
  return (floats)_mm512_max_ps((__m512)b, (__m512)v);
#elif defined(__AVX2__)
  return (floats)_mm256_max_ps((__m256)b, (__m256)v);
#else
  return b > v ? b : v;
#endif
}
inline doubles at_most(doubles v, double bound) { return bound < v ? doubles{} + bound : v; }
inline doubles at_least(doubles v, double bound) { return bound > v ? doubles{} + bound : v; }

// v where the mask is set, else 0, even where v is not finite.
template <class V, class M> inline V only(V v, M m) { return (V)((M)v & m); }

template <class A> inline double sum_lanes(vec<A> v) {
  double total = 0;
  for (int i = 0; i < LANES<A>; ++i) total += v[i];
  return total;
}
template <class A> inline double sum_lanes(const vec<A> (&v)[4]) {
  return sum_lanes<A>((v[0] + v[1]) + (v[2] + v[3]));
}

}  // namespace batchnorm::BATCHNORM_ISA
