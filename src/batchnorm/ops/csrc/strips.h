// How the columns view is walked: strips of a matrix, their rows, and a channel's values over its columns.
//
// Legend: c channel within the group, r matrix row, j column of the group's strip, `width` columns. Column j
// belongs to channel (j / inner) mod channels.

#pragma once

#include "kernels.h"
#include "memory.h"

namespace batchnorm::BATCHNORM_ISA {

template <class T> struct Strips {
  using A = acc_t<T>;
  using V = vec<A>;
  // A little over a page apart: arrays at the same place in their pages get in each other's way.
  using Scratch = A[MAX_WIDTH + 80];
  static constexpr int64_t FORWARD = 4, BACKWARD = 2;  // rows of a tile; more get in each other's way

  // Where the values of a group start in a row, and how many channels it has.
  struct Strip {
    int64_t start, channels;

    Strip(const Geometry& g, int64_t group)
        : start(g.first_channel(group) * g.inner), channels(g.channels(group)) {}
  };
  // Columns of a strip, and where one of its rows is among those of its group that are kept aside.
  static BATCHNORM_INLINE int64_t whole_width(const Geometry& g) { return g.group_channels * g.inner * g.repeat; }
  static BATCHNORM_INLINE int64_t in_aside(const Geometry& g, int64_t start) {
    return start / g.row_stride * whole_width(g);
  }

  // The columns' sums added up for each channel, in double and pairwise over the repeats:
  // total[c] += sum of values[j].
  static BATCHNORM_APART void fold(const Geometry& g, int64_t channels, int64_t repeat, const A* values,
                                   double* __restrict total) {
    if (repeat == 1) return add_columns(channels, g.inner, values, total);
    const int64_t width = channels * g.inner;
    double sums[MAX_WIDTH];
    for (int64_t j = 0; j < width * repeat; ++j) sums[j] = values[j];
    while (repeat > 1) {
      const int64_t half = (repeat + 1) / 2, paired = (repeat - half) * width;
      for (int64_t j = 0; j < paired; ++j) sums[j] += sums[j + half * width];
      repeat = half;
    }
    add_columns(channels, g.inner, sums, total);
  }

  // total[c] += sum of the channel's `inner` neighbouring values; eight sums, which do not wait for each other.
  template <class Value>
  static BATCHNORM_INLINE void add_columns(int64_t channels, int64_t inner, const Value* values,
                                           double* __restrict total) {
    if (inner == 1) {
      for (int64_t c = 0; c < channels; ++c) total[c] += values[c];
      return;
    }
    for (int64_t c = 0; c < channels; ++c, values += inner) {
      double sums[8] = {};
      int64_t i = 0;
      for (; i + 8 <= inner; i += 8)
        for (int k = 0; k < 8; ++k) sums[k] += values[i + k];
      for (; i < inner; ++i) sums[i % 8] += values[i];
      total[c] += ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
    }
  }

  // The other way: each column gets its channel's value.
  template <class Value>
  static BATCHNORM_APART void spread(const Geometry& g, int64_t channels, const Value* value,
                                     A* __restrict columns) {
    for (int64_t k = 0; k < g.repeat; ++k, columns += channels * g.inner)
      if (g.inner == 1) {
        for (int64_t c = 0; c < channels; ++c) columns[c] = static_cast<A>(value[c]);
      } else {
        for (int64_t c = 0; c < channels; ++c)
          for (int64_t i = 0; i < g.inner; ++i) columns[c * g.inner + i] = static_cast<A>(value[c]);
      }
  }

  // A coefficient for each column: the channels' own array where columns are channels.
  static const A* coefficient(const Task& t, Coefficient which, int64_t group, Scratch& scratch) {
    const Geometry& g = t.geometry;
    const A* value = static_cast<const A*>(t.coefficient[which]) + g.first_channel(group);
    if (g.inner * g.repeat == 1) return value;
    spread(g, g.channels(group), value, scratch);
    return scratch;
  }

  // How a pass takes rows: several at a time, so that a column's coefficients and sums are loaded once for all of
  // them, and with so many values from where it reads to where it asks for more, or 0.
  struct Tiling {
    int64_t rows, ahead;

    // `busy` passes, with many tensors or much arithmetic, fall behind with more than a row at a time, where all
    // comes from memory. Rows are written past the cache together if they do so in the same `Way`. The prefetcher
    // foresees one row after the other, but not several by turns, nor strips of rows.
    Tiling(const Geometry& g, int64_t rows, bool busy = false, bool past_cache = false)
        : rows((busy && g.vast && g.groups == 1) || (past_cache && g.row_stride * sizeof(T) % 64) ? 1 : rows),
          ahead(this->rows == 1 && g.groups == 1 ? 0 : g.fetched) {}

    // Not what was kept aside, which is close by.
    template <class G> BATCHNORM_INLINE void fetch(const G* p) const {
      if (std::is_same_v<G, T> && ahead) prefetch(p + ahead, 1);
    }
    // Calls f(first value, rows) for the tiles of so many rows.
    template <class F>
    BATCHNORM_INLINE void each(const Geometry& g, int64_t start, int64_t count, const F& f) const {
      for (int64_t r = 0; r < count; r += rows) f(start + r * g.row_stride, count - r < rows ? count - r : rows);
    }
  };

  // Calls f(first value, width, rows) for the tiles of a segment.
  template <class F>
  static BATCHNORM_INLINE void each_tile(const Geometry& g, const Tiling& tiling, int64_t group, int64_t segment,
                                         const F& f) {
    const Strip strip(g, group);
    blocks(g, segment, g.segment_units, [&](int64_t start, int64_t rows, int64_t repeat) {
      const int64_t width = strip.channels * g.inner * repeat;
      tiling.each(g, start + strip.start, rows, [&](int64_t at, int64_t rows) { f(at, width, rows); });
    });
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
};

}  // namespace batchnorm::BATCHNORM_ISA
