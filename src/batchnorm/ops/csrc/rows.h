// Kernels of the rows view: a channel is a set of runs, its coefficients are the same in all lanes.
//
// Legend: c channel, u unit (a run of one image's row), k accumulator, d = x - mean (or - shift).

#pragma once

#include "activation.h"
#include "sweep.h"

namespace batchnorm::BATCHNORM_ISA {

template <class T> struct Rows {
  using A = acc_t<T>;
  using V = vec<A>;

  struct Run {
    int64_t start, length;
  };

  static BATCHNORM_INLINE Run run(const Geometry& g, int64_t c, int64_t u) {
    if (g.pieces == 1) return {(u * g.C + c) * g.S, g.S};
    const int64_t n = u / g.pieces, piece = u % g.pieces;
    return {(n * g.C + c) * g.S + piece * PIECE, piece + 1 == g.pieces ? g.S - piece * PIECE : PIECE};
  }

  static V coefficient(const Task& t, Coefficient which, int64_t c) {
    return V{} + static_cast<const A*>(t.coefficient[which])[c];
  }

  // Mean of the first values of a run. As a shift taken from the block itself it bounds what the sum of
  // squares about it can lose: with a sample of 1/16 of the block at most 4 bits, whatever the data.
  static A sample_mean(const T* x, int64_t length) {
    if (length > 128) length = 128;
    V sum{};
    sweep<A>(length, [&](int64_t j, int, auto lanes) { sum += lanes.keep(lanes.load(x + j)); });
    return static_cast<A>(sum_lanes<A>(sum) / static_cast<double>(length));
  }

  static void moments(const Task& t, int64_t group, int64_t segment, double* sums) {
    const Geometry& g = t.geometry;
    const T* x = static_cast<const T*>(t.x);
    const int64_t c0 = g.first_channel(group), channels = g.channels(group), last = g.last_unit(segment);
    double& total = sums[0];
    for (int64_t begin = g.first_unit(segment); begin < last; begin += g.block_units) {
      const int64_t end = begin + g.block_units < last ? begin + g.block_units : last;
      int64_t count = 0;
      for (int64_t c = 0; c < channels; ++c) {
        const Run sample = run(g, c0 + c, begin);
        const A shift = sample_mean(x + sample.start, sample.length);
        V first[4] = {}, second[4] = {};
        count = 0;
        for (int64_t u = begin; u < end; ++u) {
          const Run r = run(g, c0 + c, u);
          const T* p = x + r.start;
          sweep<A, 4>(r.length, [&](int64_t j, int k, auto lanes) {
            const V d = lanes.keep(lanes.load(p + j) - shift);
            first[k] += d;
            second[k] += d * d;
          });
          count += r.length;
        }
        const double n = static_cast<double>(count);
        const double s1 = sum_lanes<A>((first[0] + first[1]) + (first[2] + first[3]));
        const double s2 = sum_lanes<A>((second[0] + second[1]) + (second[2] + second[3]));
        const double off = s1 / n;
        MomentsMerge(total, n)(sums[1 + c], sums[1 + channels + c], shift + off, s2 - s1 * off);
      }
      total += static_cast<double>(count);
    }
  }

  // Calls f(c, run) backwards through the segment: its end is what the pass before left in the cache.
  template <class F>
  static BATCHNORM_INLINE void backwards(const Task& t, int64_t group, int64_t segment, const F& f) {
    const Geometry& g = t.geometry;
    const int64_t c0 = g.first_channel(group), c1 = c0 + g.channels(group);
    for (int64_t u = g.last_unit(segment) - 1; u >= g.first_unit(segment); --u)
      for (int64_t c = c0; c < c1; ++c) f(c, run(g, c, u));
    if (t.stream) end_stream();
  }

  template <int activation, bool has_residual>
  static void normalize(const Task& t, int64_t group, int64_t segment) {
    backwards(t, group, segment, [&](int64_t c, Run r) {
      const T* x = static_cast<const T*>(t.x) + r.start;
      const T* residual = static_cast<const T*>(t.residual) + r.start;
      T* out = static_cast<T*>(t.out) + r.start;
      const bool past_cache = t.stream && whole_lines(out, r.length);
      const V mean = coefficient(t, MEAN, c), scale = coefficient(t, SCALE, c),
              shift = coefficient(t, SHIFT, c);
      sweep<A>(r.length, [&](int64_t j, int, auto lanes) {
        V z = (lanes.load(x + j) - mean) * scale + shift;
        if constexpr (has_residual) z += lanes.load(residual + j);
        lanes.write(past_cache, out + j, activate<activation, A>(z));
      });
    });
  }

  template <int activation, bool has_residual>
  static void gradients(const Task& t, int64_t group, int64_t segment, double* sums) {
    const Geometry& g = t.geometry;
    const int64_t c0 = g.first_channel(group), channels = g.channels(group);
    const int64_t last = g.last_unit(segment);
    for (int64_t begin = g.first_unit(segment); begin < last; begin += g.block_units) {
      const int64_t end = begin + g.block_units < last ? begin + g.block_units : last;
      for (int64_t c = c0; c < c0 + channels; ++c) {
        const V mean = coefficient(t, MEAN, c), scale = coefficient(t, SCALE, c),
                shift = coefficient(t, SHIFT, c);
        V first[4] = {}, second[4] = {};
        for (int64_t u = begin; u < end; ++u) {
          const Run r = run(g, c, u);
          const T* x = static_cast<const T*>(t.x) + r.start;
          const T* grad = static_cast<const T*>(t.grad) + r.start;
          const T* residual = static_cast<const T*>(t.residual) + r.start;
          T* grad_residual = static_cast<T*>(t.grad_residual) + r.start;
          sweep<A, is_heavy(activation) ? 1 : 4>(r.length, [&](int64_t j, int k, auto lanes) {
            const V d = lanes.load(x + j) - mean;
            V z = d * scale + shift;
            if constexpr (has_residual) z += lanes.load(residual + j);
            V dz = through<activation, A>(lanes.load(grad + j), z);
            if constexpr (has_residual) lanes.store(grad_residual + j, dz);
            first[k] += lanes.keep(dz);
            second[k] += lanes.keep(dz * d);
          });
        }
        sums[c - c0] += sum_lanes<A>((first[0] + first[1]) + (first[2] + first[3]));
        sums[channels + c - c0] += sum_lanes<A>((second[0] + second[1]) + (second[2] + second[3]));
      }
    }
  }

  template <int activation> static void input_gradient(const Task& t, int64_t group, int64_t segment) {
    const mask<A> live = mask<A>{} - !t.frozen;
    backwards(t, group, segment, [&](int64_t c, Run r) {
      const T* x = static_cast<const T*>(t.x) + r.start;
      const T* grad = static_cast<const T*>(t.grad) + r.start;
      T* out = static_cast<T*>(t.out) + r.start;
      const bool past_cache = t.stream && whole_lines(out, r.length);
      const V mean = coefficient(t, MEAN, c), scale = coefficient(t, SCALE, c),
              shift = coefficient(t, SHIFT, c);
      const V slope = coefficient(t, SLOPE, c), offset = coefficient(t, OFFSET, c);
      sweep<A>(r.length, [&](int64_t j, int, auto lanes) {
        const V d = lanes.load(x + j) - mean;
        const V dz = through<activation, A>(lanes.load(grad + j), d * scale + shift);
        lanes.write(past_cache, out + j, dz * scale + (only(d, live) * slope + offset));
      });
    });
  }
};

}  // namespace batchnorm::BATCHNORM_ISA
