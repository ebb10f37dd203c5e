// How the columns view is walked: strips of a matrix, their rows, and a channel's values over its columns.
//
// Legend: c channel within the group, r matrix row, j column of the group's strip, `width` columns. Column j
// belongs to channel (j / inner) mod channels.

#pragma once

#include <initializer_list>

#include "kernels.h"
#include "memory.h"

namespace batchnorm::BATCHNORM_ISA {

template <class T> struct Strips {
  using A = acc_t<T>;
  using V = vec<A>;
  // A little over a page apart: arrays at the same place in their pages get in each other's way.
  using Scratch = A[MAX_WIDTH + 80];
  static constexpr int ROWS_AHEAD = 8;

  // Where the values of a group start in a row, and how many channels it has.
  struct Strip {
    int64_t start, channels;

    Strip(const Geometry& g, int64_t group)
        : start(g.first_channel(group) * g.inner), channels(g.channels(group)) {}
  };

  // The columns' sums added up for each channel, in double and pairwise over the repeats:
  // total[c] += sum of values[j].
  static BATCHNORM_APART void fold(const Geometry& g, int64_t channels, int64_t repeat, const A* values,
                                   double* total) {
    const int64_t width = channels * g.inner;
    double sums[MAX_WIDTH];
    for (int64_t j = 0; j < width * repeat; ++j) sums[j] = values[j];
    while (repeat > 1) {
      const int64_t half = (repeat + 1) / 2, paired = (repeat - half) * width;
      for (int64_t j = 0; j < paired; ++j) sums[j] += sums[j + half * width];
      repeat = half;
    }
    for (int64_t c = 0; c < channels; ++c) {
      double sum = 0;
      for (int64_t i = 0; i < g.inner; ++i) sum += sums[c * g.inner + i];
      total[c] += sum;
    }
  }

  // The other way: each column gets its channel's value.
  template <class Value>
  static BATCHNORM_APART void spread(const Geometry& g, int64_t channels, const Value* value, A* columns) {
    for (int64_t k = 0; k < g.repeat; ++k)
      for (int64_t c = 0; c < channels; ++c)
        for (int64_t i = 0; i < g.inner; ++i) *columns++ = static_cast<A>(value[c]);
  }

  // A coefficient for each column: the channels' own array where columns are channels.
  static const A* coefficient(const Task& t, Coefficient which, int64_t group, Scratch& scratch) {
    const Geometry& g = t.geometry;
    const A* value = static_cast<const A*>(t.coefficient[which]) + g.first_channel(group);
    if (g.inner * g.repeat == 1) return value;
    spread(g, g.channels(group), value, scratch);
    return scratch;
  }

  // Calls f(r) for each of so many rows, a few at a time while the tensors' strips of the next few are fetched:
  // where a strip is not all of a row, the prefetcher does not see where it goes on.
  template <class F>
  static BATCHNORM_INLINE void each(const Geometry& g, std::initializer_list<const void*> tensors, int64_t start,
                                    int64_t rows, const F& f) {
    for (int64_t r = 0; r < rows;) {
      const int64_t end = r + ROWS_AHEAD < rows ? r + ROWS_AHEAD : rows;
      if (g.fetched) ask_for(g, tensors, start + end * g.row_stride);
      for (; r < end; ++r) f(r);
    }
  }
  static BATCHNORM_APART void ask_for(const Geometry& g, std::initializer_list<const void*> tensors,
                                      int64_t start) {
    asm volatile("");  // a call without any effect would be left out
    for (const void* tensor : tensors)
      for (int r = 0; tensor && r < ROWS_AHEAD; ++r)
        prefetch(static_cast<const T*>(tensor) + start + r * g.row_stride, g.fetched);
  }

  static BATCHNORM_INLINE void fetch_two(const T* row, int64_t stride, int64_t width) {
    prefetch(row, width);
    prefetch(row + stride, width);
  }

  // Calls f(first value, rows, repeat) for the rows of a segment, `block` at a time. The tensor rows left
  // over at the end are one more matrix row with fewer repeats.
  template <class F>
  static BATCHNORM_INLINE void blocks(const Geometry& g, int64_t segment, int64_t block, const F& f) {
    const int64_t last = g.last_unit(segment);
    const int64_t end = segment + 1 == g.segments && g.rest > 0 ? last + 1 : last;
    for (int64_t r = g.first_unit(segment), next; r < end; r = next) {
      next = r == last ? end : r + block < last ? r + block : last;
      f(r * g.row_stride, next - r, r == last ? g.rest : g.repeat);
    }
  }

  // Calls f(first value, width) for each row of a segment: one row at a time. Several at a time would
  // save loads of coefficients, but so many streams of memory defeat the prefetcher (1.5 times slower).
  template <class F>
  static BATCHNORM_INLINE void each_row(const Geometry& g, int64_t group, int64_t segment, const F& f) {
    const Strip strip(g, group);
    blocks(g, segment, g.segment_units, [&](int64_t start, int64_t rows, int64_t repeat) {
      const int64_t width = strip.channels * g.inner * repeat;
      for (int64_t r = 0; r < rows; ++r) f(start + strip.start + r * g.row_stride, width);
    });
  }
};

}  // namespace batchnorm::BATCHNORM_ISA
