// Kernels of the columns view: each lane belongs to one channel, sums and coefficients are vectors.
//
// Legend: c channel within the group, r matrix row, j column of the group's strip, `width` columns,
// d = x - mean (or - shift). Column j belongs to channel (j / inner) mod channels.

#pragma once

#include "activation.h"
#include "strips.h"
#include "sweep.h"

namespace batchnorm::BATCHNORM_ISA {

template <class T> struct Columns : Strips<T> {
  using Walk = Strips<T>;
  using typename Walk::A;
  using typename Walk::Scratch;
  using typename Walk::Strip;
  using typename Walk::V;
  using Walk::blocks, Walk::coefficient, Walk::each, Walk::each_row, Walk::fetch_two, Walk::fold, Walk::spread;

  static void moments(const Task& t, int64_t group, int64_t segment, double* sums) {
    const Geometry& g = t.geometry;
    const Strip strip(g, group);
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
      int64_t r = 0;
      for (; r + 2 <= rows; r += 2) {
        fetch_two(x + (r + Walk::ROWS_AHEAD) * stride, stride, width);
        if (t.following) fetch_two(following + r * stride, stride, width);
        add_moments<2>(x + r * stride, stride, width, shift, first, second);
      }
      if (r < rows) add_moments<1>(x + r * stride, stride, width, shift, first, second);
      fold(g, channels, repeat, first, s1);
      fold(g, channels, repeat, second, s2);
      const double n = static_cast<double>(rows * in_row), per_value = 1 / n;
      const MomentsMerge merge(total, n);
      for (int64_t c = 0; c < channels; ++c) {
        const double off = s1[c] * per_value;
        merge(sums[1 + c], sums[1 + channels + c], mean[c] + off, s2[c] - s1[c] * off);
      }
      total += n;
    });
  }

  static BATCHNORM_APART void add(const T* x, int64_t width, A* sum) {
    sweep<A>(width, [&](int64_t j, int, auto lanes) {
      lanes.store(sum + j, lanes.load(sum + j) + lanes.keep(lanes.load(x + j)));
    });
  }

  // Of one row, or of two: then the sums are read and written once for both.
  template <int rows>
  static void add_moments(const T* x, int64_t stride, int64_t width, const A* shift, A* first, A* second) {
    sweep<A>(width, [&](int64_t j, int, auto lanes) {
      const V s = lanes.load(shift + j), d = lanes.keep(lanes.load(x + j) - s);
      V sum = d, squares = d * d;
      if constexpr (rows == 2) {
        const V e = lanes.keep(lanes.load(x + stride + j) - s);
        sum += e;
        squares += e * e;
      }
      lanes.store(first + j, lanes.load(first + j) + sum);
      lanes.store(second + j, lanes.load(second + j) + squares);
    });
  }

  template <int activation, bool has_residual>
  static void normalize(const Task& t, int64_t group, int64_t segment) {
    alignas(64) Scratch scratch[3];
    const A* mean = coefficient(t, MEAN, group, scratch[0]);
    const A* scale = coefficient(t, SCALE, group, scratch[1]);
    const A* shift = coefficient(t, SHIFT, group, scratch[2]);
    each_row(t.geometry, group, segment, [&](int64_t start, int64_t width) {
      const T* x = static_cast<const T*>(t.x) + start;
      const T* residual = static_cast<const T*>(t.residual) + start;
      T* out = static_cast<T*>(t.out) + start;
      const Way way(t.stream, out, width);
      sweep<A>(width, way.head, [&](int64_t j, int, auto lanes) {
        V z = (lanes.load(x + j) - lanes.load(mean + j)) * lanes.load(scale + j) + lanes.load(shift + j);
        if constexpr (has_residual) z += lanes.load(residual + j);
        lanes.write(way.past_cache, out + j, activate<activation, A>(z));
      });
    });
    if (t.stream) end_stream();
  }

  template <int activation, bool has_residual>
  static void gradients(const Task& t, int64_t group, int64_t segment, double* sums) {
    const Geometry& g = t.geometry;
    const bool keep = has_residual || t.dz;
    const Strip strip(g, group);
    alignas(64) Scratch scratch[3], first, second;
    const A* mean = coefficient(t, MEAN, group, scratch[0]);
    const A* scale = coefficient(t, SCALE, group, scratch[1]);
    const A* shift = coefficient(t, SHIFT, group, scratch[2]);
    blocks(g, segment, g.block_units, [&](int64_t start, int64_t rows, int64_t repeat) {
      const int64_t width = strip.channels * g.inner * repeat;
      for (int64_t j = 0; j < width; ++j) first[j] = 0, second[j] = 0;
      each(g, {t.x, t.grad, t.residual}, start + strip.start, rows, [&](int64_t r) {
        const int64_t at = start + strip.start + r * g.row_stride;
        const T* x = static_cast<const T*>(t.x) + at;
        const T* grad = static_cast<const T*>(t.grad) + at;
        const T* residual = static_cast<const T*>(t.residual) + at;
        T* kept = static_cast<T*>(t.dz) + at;
        const Way way(has_residual && t.stream, kept, width);
        sweep<A>(width, way.head, [&](int64_t j, int, auto lanes) {
          const V d = lanes.load(x + j) - lanes.load(mean + j);
          V z = d * lanes.load(scale + j) + lanes.load(shift + j);
          if constexpr (has_residual) z += lanes.load(residual + j);
          const V dz = through<activation, A>(lanes.load(grad + j), z);
          if constexpr (has_residual || may_keep<activation, T>)
            if (keep) lanes.write(way.past_cache, kept + j, dz);
          lanes.store(first + j, lanes.load(first + j) + lanes.keep(dz));
          lanes.store(second + j, lanes.load(second + j) + lanes.keep(dz * d));
        });
      });
      fold(g, strip.channels, repeat, first, sums);
      fold(g, strip.channels, repeat, second, sums + strip.channels);
    });
    if (t.stream) end_stream();
  }

  template <int activation, bool has_residual>
  static void input_gradient(const Task& t, int64_t group, int64_t segment) {
    alignas(64) Scratch scratch[5];
    const A* mean = coefficient(t, MEAN, group, scratch[0]);
    const A* scale = coefficient(t, SCALE, group, scratch[1]);
    const A* shift = coefficient(t, SHIFT, group, scratch[2]);
    const A* slope = coefficient(t, SLOPE, group, scratch[3]);
    const A* offset = coefficient(t, OFFSET, group, scratch[4]);
    const mask<A> live = mask<A>{} - !t.frozen;
    each_row(t.geometry, group, segment, [&](int64_t start, int64_t width) {
      const T* x = static_cast<const T*>(t.x) + start;
      const T* grad = static_cast<const T*>(t.grad) + start;
      const T* residual = static_cast<const T*>(t.residual) + start;
      T* out = static_cast<T*>(t.out) + start;
      const Way way(t.stream, out, width);
      sweep<A>(width, way.head, [&](int64_t j, int, auto lanes) {
        const V d = lanes.load(x + j) - lanes.load(mean + j), by = lanes.load(scale + j);
        V z = d * by + lanes.load(shift + j);
        if constexpr (has_residual) z += lanes.load(residual + j);
        const V dz = through<activation, A>(lanes.load(grad + j), z);
        const V through_statistics = only(d, live) * lanes.load(slope + j) + lanes.load(offset + j);
        lanes.write(way.past_cache, out + j, dz * by + through_statistics);
      });
    });
    if (t.stream) end_stream();
  }
};

}  // namespace batchnorm::BATCHNORM_ISA
