// Kernels of the columns view: each lane belongs to one channel, sums and coefficients are vectors.
//
// Legend: c channel within the group, r matrix row, j column of the group's strip, `width` columns,
// d = x - mean (or - shift). Column j belongs to channel (j / inner) mod channels.

#pragma once

#include "activation.h"
#include "strips.h"
#include "windows.h"

namespace batchnorm::BATCHNORM_ISA {

template <class T> struct Columns : Strips<T> {
  using Walk = Strips<T>;
  using typename Walk::A;
  using typename Walk::Scratch;
  using typename Walk::Strip;
  using typename Walk::Tiling;
  using typename Walk::V;
  using Walk::blocks, Walk::coefficient, Walk::each_tile, Walk::fold, Walk::in_aside, Walk::spread, Walk::whole_width;

  static void moments(const Task& t, int64_t group, int64_t segment, double* sums) {
    const Geometry& g = t.geometry;
    const Strip strip(g, group);
    const Tiling tiling(g, Walk::FORWARD);
    const int64_t channels = strip.channels, stride = g.row_stride;
    double& total = sums[0];
    alignas(64) Scratch shift, first, second;
    double mean[MAX_WIDTH], s1[MAX_WIDTH], s2[MAX_WIDTH];
    blocks(g, segment, g.block_units, [&](int64_t start, int64_t rows, int64_t repeat) {
      const T* x = static_cast<const T*>(t.x) + start + strip.start;
      const T* following = static_cast<const T*>(t.following) + start + strip.start;
      const int64_t width = channels * g.inner * repeat, in_row = g.inner * repeat;
      // As in rows.h the shift is the mean of a sixteenth of the block, or of 16 values.
      int64_t sample = (rows + 15) / 16;
      if (sample * in_row < 16) sample = (15 + in_row) / in_row;
      if (sample > rows) sample = rows;
      for (int64_t j = 0; j < width; ++j) first[j] = 0, second[j] = 0;
      for (int64_t r = 0; r < sample; ++r) add(x + r * stride, width, first);
      for (int64_t c = 0; c < channels; ++c) mean[c] = s1[c] = s2[c] = 0;
      fold(g, channels, repeat, first, mean);
      for (int64_t c = 0; c < channels; ++c)
        mean[c] = static_cast<A>(mean[c] / static_cast<double>(sample * in_row));
      spread(g, channels, mean, shift);
      for (int64_t j = 0; j < width; ++j) first[j] = 0;
      tiling.each(g, 0, rows, [&](int64_t at, int64_t rows) {
        const T* then = t.following ? following + at : nullptr;
        add_moments(tiling, stride, x + at, then, rows, width, shift, first, second);
      });
      fold(g, channels, repeat, first, s1);
      fold(g, channels, repeat, second, s2);
      const double n = static_cast<double>(rows * in_row);
      add_block(channels, MomentsMerge(total, n), 1 / n, mean, s1, s2, sums + 1);
      total += n;
    });
  }

  // Merges a block's values, whose deviations from `shift` have the sums s1 and squares s2, into means and M2s.
  static BATCHNORM_APART void add_block(int64_t channels, MomentsMerge merge, double per_value,
                                        const double* shift, const double* s1, const double* s2,
                                        double* __restrict sums) {
    for (int64_t c = 0; c < channels; ++c) {
      const double off = s1[c] * per_value;
      merge(sums[c], sums[channels + c], shift[c] + off, s2[c] - s1[c] * off);
    }
  }

  static BATCHNORM_APART void add(const T* x, int64_t width, A* sum) {
    sweep<A>(width, [&](int64_t j, int, auto lanes) {
      lanes.store(sum + j, lanes.load(sum + j) + lanes.keep(lanes.load(x + j)));
    });
  }

  static void add_moments(Tiling tiling, int64_t stride, const T* x, const T* following, int64_t rows,
                          int64_t width, const A* shift, A* first, A* second) {
    sweep<A>(width, [&](int64_t j, int, auto lanes) {
      const V s = lanes.load(shift + j);
      V sum = lanes.load(first + j), squares = lanes.load(second + j);
      for (int64_t r = 0, at = j; r < rows; ++r, at += stride) {
        tiling.fetch(x + at);
        if (following) prefetch(following + at, 1);
        const V d = lanes.keep(lanes.load(x + at) - s);
        sum += d;
        squares += d * d;
      }
      lanes.store(first + j, sum);
      lanes.store(second + j, squares);
    });
  }

  template <int activation, Besides besides>
  static void normalize(const Task& t, int64_t group, int64_t segment) {
    constexpr bool has_residual = besides == RESIDUAL, averaged = besides == AVERAGES;
    alignas(64) Scratch scratch[3];
    const A* mean = coefficient(t, MEAN, group, scratch[0]);
    const A* scale = coefficient(t, SCALE, group, scratch[1]);
    const A* shift = coefficient(t, SHIFT, group, scratch[2]);
    const Geometry& g = t.geometry;
    const int64_t stride = g.row_stride;
    const Tiling tiling(g, averaged ? 1 : Walk::FORWARD, has_residual, t.stream && !averaged);
    each_tile(g, tiling, group, segment, [&](int64_t start, int64_t width, int64_t rows) {
      const T* x = static_cast<const T*>(t.x) + start;
      const T* residual = static_cast<const T*>(t.residual) + start;
      alignas(64) T whole[averaged ? MAX_WIDTH : 1];
      T* out = averaged ? whole : static_cast<T*>(t.out) + start;
      const Way way(t.stream && !averaged, out, width);
      sweep<A>(width, way.head, [&](int64_t j, int, auto lanes) {
        const V m = lanes.load(mean + j), by = lanes.load(scale + j), plus = lanes.load(shift + j);
        for (int64_t r = 0, at = j; r < rows; ++r, at += stride) {
          tiling.fetch(x + at);
          V z = (lanes.load(x + at) - m) * by + plus;
          if constexpr (has_residual) {
            tiling.fetch(residual + at);
            z += lanes.load(residual + at);
          }
          lanes.write(way.past_cache, out + at, activate<activation, A>(z));
        }
      });
      if constexpr (averaged) average_windows(t, whole, start, width);
    });
    if (t.stream) end_stream();
  }

  struct Pulled {
    V d, dz;
  };
  // Of a vector of x, given those of the other tensors at its place and of the coefficients at its columns.
  template <int activation, bool has_residual, class Lanes, class G>
  static BATCHNORM_INLINE Pulled pull(const Tiling& tiling, Lanes lanes, const T* x, const G* grad,
                                      const T* residual, V mean, V scale, V shift) {
    tiling.fetch(x);
    tiling.fetch(grad);
    const V d = lanes.load(x) - mean;
    V z = d * scale + shift;
    if constexpr (has_residual) {
      tiling.fetch(residual);
      z += lanes.load(residual);
    }
    return {d, through<activation, A>(lanes.load(grad), z)};
  }

  template <int activation, Besides besides>
  static void gradients(const Task& t, int64_t group, int64_t segment, double* sums) {
    constexpr bool has_residual = besides == RESIDUAL, averaged = besides == AVERAGES;
    const Geometry& g = t.geometry;
    const bool keep = has_residual || t.dz;
    const int64_t stride = g.row_stride;
    const Tiling tiling(g, averaged ? 1 : Walk::BACKWARD, has_residual || is_heavy(activation),
                        has_residual && t.stream);
    const Strip strip(g, group);
    alignas(64) Scratch scratch[3], first, second;
    const A* mean = coefficient(t, MEAN, group, scratch[0]);
    const A* scale = coefficient(t, SCALE, group, scratch[1]);
    const A* shift = coefficient(t, SHIFT, group, scratch[2]);
    blocks(g, segment, g.block_units, [&](int64_t start, int64_t rows, int64_t repeat) {
      const int64_t width = strip.channels * g.inner * repeat;
      for (int64_t j = 0; j < width; ++j) first[j] = 0, second[j] = 0;
      tiling.each(g, start + strip.start, rows, [&](int64_t start, int64_t rows) {
        const T* x = static_cast<const T*>(t.x) + start;
        const T* grad = static_cast<const T*>(t.grad) + (averaged ? t.windows.averages(start) : start);
        alignas(64) T whole[averaged ? MAX_WIDTH : 1];
        if constexpr (averaged) grad = spread_windows(t.windows, grad, width, whole);
        const T* residual = static_cast<const T*>(t.residual) + start;
        T* kept = static_cast<T*>(t.dz) + start;
        A* aside = static_cast<A*>(t.aside) + in_aside(g, start);
        const Way way(has_residual && t.stream, kept, width);
        sweep<A>(width, way.head, [&](int64_t j, int, auto lanes) {
          const V m = lanes.load(mean + j), by = lanes.load(scale + j), plus = lanes.load(shift + j);
          V sum = lanes.load(first + j), products = lanes.load(second + j);
          for (int64_t r = 0, at = j; r < rows; ++r, at += stride) {
            const auto [d, dz] =
                pull<activation, has_residual>(tiling, lanes, x + at, grad + at, residual + at, m, by, plus);
            if constexpr (has_residual || may_keep<activation, T>)
              if (keep) lanes.write(way.past_cache, kept + at, dz);
            if constexpr (may_keep_aside<activation, T>)
              if (t.aside) lanes.store(aside + j + r * whole_width(g), dz);
            sum += lanes.keep(dz);
            products += lanes.keep(dz * d);
          }
          lanes.store(first + j, sum);
          lanes.store(second + j, products);
        });
      });
      fold(g, strip.channels, repeat, first, sums);
      fold(g, strip.channels, repeat, second, sums + strip.channels);
    });
    if (t.stream) end_stream();
  }

  template <int activation, Besides besides, bool of_aside = false>
  static void input_gradient(const Task& t, int64_t group, int64_t segment) {
    constexpr bool has_residual = besides == RESIDUAL, averaged = besides == AVERAGES;
    alignas(64) Scratch scratch[5];
    const A* mean = coefficient(t, MEAN, group, scratch[0]);
    const A* scale = coefficient(t, SCALE, group, scratch[1]);
    const A* shift = coefficient(t, SHIFT, group, scratch[2]);
    const A* slope = coefficient(t, SLOPE, group, scratch[3]);
    const A* offset = coefficient(t, OFFSET, group, scratch[4]);
    const mask<A> live = mask<A>{} - !t.frozen;
    const Geometry& g = t.geometry;
    const int64_t stride = g.row_stride;
    // what an IDENTITY kernel is given is often a dz that has just been written past the cache
    const bool busy = has_residual || is_heavy(activation) || activation == IDENTITY;
    const Tiling tiling(g, averaged ? 1 : Walk::BACKWARD, busy, t.stream);
    each_tile(g, tiling, group, segment, [&](int64_t start, int64_t width, int64_t rows) {
      using G = std::conditional_t<of_aside, A, T>;
      const T* x = static_cast<const T*>(t.x) + start;
      const G* grad = static_cast<const G*>(t.grad) + (of_aside   ? in_aside(g, start)
                                                       : averaged ? t.windows.averages(start)
                                                                  : start);
      alignas(64) G whole[averaged ? MAX_WIDTH : 1];
      if constexpr (averaged) grad = spread_windows(t.windows, grad, width, whole);
      const T* residual = static_cast<const T*>(t.residual) + start;
      T* out = static_cast<T*>(t.out) + start;
      const Way way(t.stream, out, width);
      sweep<A>(width, way.head, [&](int64_t j, int, auto lanes) {
        const V m = lanes.load(mean + j), by = lanes.load(scale + j), plus = lanes.load(shift + j);
        const V s = lanes.load(slope + j), o = lanes.load(offset + j);
        for (int64_t r = 0, at = j; r < rows; ++r, at += stride) {
          const G* given = grad + (of_aside ? j + r * whole_width(g) : at);
          const auto [d, dz] =
              pull<activation, has_residual>(tiling, lanes, x + at, given, residual + at, m, by, plus);
          lanes.write(way.past_cache, out + at, dz * by + (only(d, live) * s + o));
        }
      });
    });
    if (t.stream) end_stream();
  }
};

}  // namespace batchnorm::BATCHNORM_ISA
