// Kernels of the rows view: a channel is a set of runs, its coefficients are the same in all lanes.
//
// Legend: c channel, u unit (a run of one image's row), k accumulator, d = x - mean (or - shift).

#pragma once

#include "activation.h"
#include "windows.h"

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
    const int64_t start = (n * g.C + c) * g.S + piece * g.piece;
    return {start, piece + 1 == g.pieces ? g.S - piece * g.piece : g.piece};
  }

  // Where a unit's run is among those of its group that are kept aside.
  static BATCHNORM_INLINE int64_t in_aside(const Geometry& g, int64_t group, int64_t u, Run r) {
    return r.start - u / g.pieces * (g.C - g.group_channels) * g.S - g.first_channel(group) * g.S;
  }

  // The prefetcher does not see where the next run is: ask for it while this one is computed.
  static BATCHNORM_INLINE void fetch(const Geometry& g, const void* tensor, int64_t start) {
    prefetch(static_cast<const T*>(tensor) + start, g.fetched);
  }

  // A channel's coefficient in all lanes.
  static BATCHNORM_INLINE V in_lanes(const Task& t, Coefficient which, int64_t c) {
    return V{} + static_cast<const A*>(t.coefficient[which])[c];
  }

  // Those of the pre-activation.
  struct Coefficients {
    V mean, scale, shift;

    Coefficients(const Task& t, int64_t c)
        : mean(in_lanes(t, MEAN, c)), scale(in_lanes(t, SCALE, c)), shift(in_lanes(t, SHIFT, c)) {}
  };

  // Calls body(c, begin, end, next) for each block of units [begin, end) of each channel of the group;
  // the run after this block's starts at `next`.
  template <class F>
  static BATCHNORM_INLINE void blocks(const Geometry& g, int64_t group, int64_t segment, const F& body) {
    const int64_t c0 = g.first_channel(group), c1 = c0 + g.channels(group), last = g.last_unit(segment);
    for (int64_t begin = g.first_unit(segment), end; begin < last; begin = end) {
      end = begin + g.block_units < last ? begin + g.block_units : last;
      for (int64_t c = c0; c < c1; ++c) {
        const Run next = c + 1 < c1 ? run(g, c + 1, begin) : run(g, c0, end < last ? end : begin);
        body(c, begin, end, next.start);
      }
    }
  }

  // Mean of the first values of a run. As a shift taken from the block itself it bounds what the sum of
  // squares about it can lose: with a sample of 1/16 of the block at most 4 bits, whatever the data.
  static A sample_mean(const T* x, int64_t length) {
    if (length > PIECE / 16) length = PIECE / 16;
    V sum{};
    sweep<A>(length, [&](int64_t j, int, auto lanes) { sum += lanes.keep(lanes.load(x + j)); });
    return static_cast<A>(sum_lanes<A>(sum) / static_cast<double>(length));
  }

  static void moments(const Task& t, int64_t group, int64_t segment, double* sums) {
    const Geometry& g = t.geometry;
    const T* x = static_cast<const T*>(t.x);
    const int64_t c0 = g.first_channel(group), channels = g.channels(group);
    double* count = sums;
    blocks(g, group, segment, [&](int64_t c, int64_t begin, int64_t end, int64_t next) {
      const Run sample = run(g, c, begin);
      const A shift = sample_mean(x + sample.start, sample.length);
      V first[4] = {}, second[4] = {};
      int64_t values = 0;
      for (int64_t u = begin; u < end; ++u) {
        const Run r = run(g, c, u);
        fetch(g, x, u + 1 < end ? run(g, c, u + 1).start : next);
        if (t.following) prefetch(static_cast<const T*>(t.following) + r.start, r.length);
        sweep<A, 4>(r.length, [&](int64_t j, int k, auto lanes) BATCHNORM_BODY {
          const V d = lanes.keep(lanes.load(x + r.start + j) - shift);
          first[k] += d;
          second[k] += d * d;
        });
        values += r.length;
      }
      const double n = static_cast<double>(values), s1 = sum_lanes<A>(first), s2 = sum_lanes<A>(second);
      const int64_t i = c - c0;
      MomentsMerge(*count, n)(sums[1 + i], sums[1 + channels + i], shift + s1 / n, s2 - s1 * s1 / n);
      if (i + 1 == channels) *count += n;
    });
  }

  template <int activation, Besides besides>
  static void gradients(const Task& t, int64_t group, int64_t segment, double* sums) {
    const Geometry& g = t.geometry;
    constexpr bool has_residual = besides == RESIDUAL, averaged = besides == AVERAGES;
    const bool keep = has_residual || t.dz;
    const int64_t c0 = g.first_channel(group), channels = g.channels(group);
    blocks(g, group, segment, [&](int64_t c, int64_t begin, int64_t end, int64_t next) {
      const Coefficients at(t, c);
      V first[4] = {}, second[4] = {};
      for (int64_t u = begin; u < end; ++u) {
        const Run r = run(g, c, u);
        const T* x = static_cast<const T*>(t.x) + r.start;
        const T* grad = static_cast<const T*>(t.grad) + (averaged ? t.windows.averages(r.start) : r.start);
        alignas(64) T whole[averaged ? LONGEST_RUN : 1];
        if constexpr (averaged) grad = spread_windows(t.windows, grad, r.length, whole);
        const T* residual = static_cast<const T*>(t.residual) + r.start;
        T* kept = static_cast<T*>(t.dz) + r.start;
        A* aside = static_cast<A*>(t.aside) + in_aside(g, group, u, r);
        const int64_t then = u + 1 < end ? run(g, c, u + 1).start : next;
        const Way way(has_residual && t.stream, kept, r.length);
        fetch(g, t.x, then);
        fetch(g, t.grad, averaged ? t.windows.averages(then) : then);
        if constexpr (has_residual) fetch(g, t.residual, then);
        sweep<A, is_heavy(activation) ? 1 : 4>(r.length, way.head, [&](int64_t j, int k, auto lanes) {
          const V d = lanes.load(x + j) - at.mean;
          V z = d * at.scale + at.shift;
          if constexpr (has_residual) z += lanes.load(residual + j);
          const V dz = through<activation, A>(lanes.load(grad + j), z);
          if constexpr (has_residual || may_keep<activation, T>)
            if (keep) lanes.write(way.past_cache, kept + j, dz);
          if constexpr (may_keep_aside<activation, T>)
            if (t.aside) lanes.store(aside + j, dz);
          first[k] += lanes.keep(dz);
          second[k] += lanes.keep(dz * d);
        });
      }
      sums[c - c0] += sum_lanes<A>(first);
      sums[channels + c - c0] += sum_lanes<A>(second);
    });
    if (t.stream) end_stream();
  }

  // Calls body(c, u, run, next) backwards through the segment: its end is what the pass before left in the
  // cache. The run after this one starts at `next`.
  template <class F>
  static BATCHNORM_INLINE void backwards(const Task& t, int64_t group, int64_t segment, const F& body) {
    const Geometry& g = t.geometry;
    const int64_t c0 = g.first_channel(group), c1 = c0 + g.channels(group), first = g.first_unit(segment);
    for (int64_t u = g.last_unit(segment) - 1; u >= first; --u)
      for (int64_t c = c0; c < c1; ++c) {
        const Run next = c + 1 < c1 ? run(g, c + 1, u) : run(g, c0, u > first ? u - 1 : u);
        body(c, u, run(g, c, u), next.start);
      }
    if (t.stream) end_stream();
  }

  template <int activation, Besides besides>
  static void normalize(const Task& t, int64_t group, int64_t segment) {
    constexpr bool has_residual = besides == RESIDUAL, averaged = besides == AVERAGES;
    const Geometry& g = t.geometry;
    backwards(t, group, segment, [&](int64_t c, int64_t, Run r, int64_t next) {
      const T* x = static_cast<const T*>(t.x) + r.start;
      const T* residual = static_cast<const T*>(t.residual) + r.start;
      alignas(64) T whole[averaged ? LONGEST_RUN : 1];
      T* out = averaged ? whole : static_cast<T*>(t.out) + r.start;
      const Way way(t.stream && !averaged, out, r.length);
      const Coefficients at(t, c);
      fetch(g, t.x, next);
      if constexpr (has_residual) fetch(g, t.residual, next);
      sweep<A>(r.length, way.head, [&](int64_t j, int, auto lanes) BATCHNORM_BODY {
        V z = (lanes.load(x + j) - at.mean) * at.scale + at.shift;
        if constexpr (has_residual) z += lanes.load(residual + j);
        lanes.write(way.past_cache, out + j, activate<activation, A>(z));
      });
      if constexpr (averaged) average_windows(t, whole, r.start, r.length);
    });
  }

  template <int activation, Besides besides, bool of_aside = false>
  static void input_gradient(const Task& t, int64_t group, int64_t segment) {
    constexpr bool has_residual = besides == RESIDUAL, averaged = besides == AVERAGES;
    const Geometry& g = t.geometry;
    const mask<A> live = mask<A>{} - !t.frozen;
    backwards(t, group, segment, [&](int64_t c, int64_t u, Run r, int64_t next) {
      using G = std::conditional_t<of_aside, A, T>;
      const T* x = static_cast<const T*>(t.x) + r.start;
      const G* grad = static_cast<const G*>(t.grad) + (of_aside   ? in_aside(g, group, u, r)
                                                       : averaged ? t.windows.averages(r.start)
                                                                  : r.start);
      alignas(64) G whole[averaged ? LONGEST_RUN : 1];
      if constexpr (averaged) grad = spread_windows(t.windows, grad, r.length, whole);
      const T* residual = static_cast<const T*>(t.residual) + r.start;
      T* out = static_cast<T*>(t.out) + r.start;
      const Way way(t.stream, out, r.length);
      const Coefficients at(t, c);
      const V slope = in_lanes(t, SLOPE, c), offset = in_lanes(t, OFFSET, c);
      fetch(g, t.x, next);
      if constexpr (!of_aside) fetch(g, t.grad, averaged ? t.windows.averages(next) : next);
      sweep<A>(r.length, way.head, [&](int64_t j, int, auto lanes) {
        const V d = lanes.load(x + j) - at.mean;
        V z = d * at.scale + at.shift;
        if constexpr (has_residual) z += lanes.load(residual + j);
        const V dz = through<activation, A>(lanes.load(grad + j), z);
        lanes.write(way.past_cache, out + j, dz * at.scale + (only(d, live) * slope + offset));
      });
    });
  }
};

}  // namespace batchnorm::BATCHNORM_ISA
