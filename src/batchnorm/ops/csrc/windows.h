// Averages of windows within a run of values, and their gradient. A run begins and ends with a band: as many
// lines of an image as a window is high.

#pragma once

#include "kernels.h"
#include "sweep.h"

namespace batchnorm::BATCHNORM_ISA {

// Line by line, as torch adds them up. `size` is known when this is compiled, or 0.
template <int known, class A>
BATCHNORM_INLINE void add_windows(const Windows& windows, const A* values, int64_t count, A* sums) {
  const int64_t size = known ? known : windows.size, across = windows.line / size;
  for (const A* end = values + count; values < end; values += size * windows.line, sums += across)
    for (int64_t q = 0; q < across; ++q) {
      A sum = 0;
      for (int64_t i = 0; i < size; ++i)
        for (int64_t j = 0; j < size; ++j) sum += values[i * windows.line + q * size + j];
      sums[q] = sum;
    }
}

// Writes the averages of a run, at most LONGEST_RUN values, which start at `start` in the batch.
template <class T> BATCHNORM_APART void average_windows(const Task& t, const T* values, int64_t start, int64_t count) {
  using A = acc_t<T>;
  const Windows& windows = t.windows;
  T* out = static_cast<T*>(t.out) + windows.averages(start);
  alignas(64) A wide[LONGEST_RUN], sums[LONGEST_RUN / 4];
  sweep<A>(count, [&](int64_t j, int, auto lanes) { lanes.store(wide + j, lanes.load(values + j)); });
  windows.size == 2 ? add_windows<2>(windows, wide, count, sums) : add_windows<0>(windows, wide, count, sums);
  const A area = static_cast<A>(windows.area());
  sweep<A>(windows.averages(count),
           [&](int64_t j, int, auto lanes) { lanes.store(out + j, lanes.load(sums + j) / area); });
}

// Each value to all of its window.
template <int known, class T>
BATCHNORM_INLINE void repeat_windows(const Windows& windows, const T* shares, int64_t count, T* out) {
  const int64_t size = known ? known : windows.size, across = windows.line / size;
  for (const T* end = out + count; out < end; shares += across) {
    const T* const first = out;
    for (int64_t q = 0; q < across; ++q)
      for (int64_t j = 0; j < size; ++j) out[q * size + j] = shares[q];
    out += windows.line;
    for (int64_t i = 1; i < size; ++i, out += windows.line) std::memcpy(out, first, windows.line * sizeof(T));
  }
}

// The gradient of `count` values, at most LONGEST_RUN, given that of their averages; returns `out`.
template <class T>
BATCHNORM_APART const T* spread_windows(const Windows& windows, const T* grad, int64_t count, T* out) {
  using A = acc_t<T>;
  alignas(64) T shares[LONGEST_RUN / 4];
  const A area = static_cast<A>(windows.area());
  sweep<A>(windows.averages(count),
           [&](int64_t j, int, auto lanes) { lanes.store(shares + j, lanes.load(grad + j) / area); });
  windows.size == 2 ? repeat_windows<2>(windows, shares, count, out)
                    : repeat_windows<0>(windows, shares, count, out);
  return out;
}

}  // namespace batchnorm::BATCHNORM_ISA
