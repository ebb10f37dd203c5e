// Two passes over a batch, in parallel where it pays, with sums merged in a fixed order.

#pragma once

#include <torch/csrc/stable/ops.h>

#include <vector>

#include "kernels.h"

namespace batchnorm {

// Fewer values are done before a second thread has woken.
constexpr int64_t VALUES_WORTH_THREADS = 32768;

inline int64_t threads_for(const Geometry& g) {
  return g.N * g.C * g.S < VALUES_WORTH_THREADS ? 1 : torch::stable::get_num_threads();
}

template <class F> void parallel(int64_t threads, int64_t items, const F& f) {
  const auto all = [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) f(item);
  };
  if (threads == 1) return all(0, items);
  torch::stable::parallel_for(0, items, 1, all);
}

// map(group, segment) for every segment.
template <class M> void one_pass(const Geometry& g, const M& map) {
  parallel(threads_for(g), g.groups * g.segments, [&](int64_t i) { map(i / g.segments, i % g.segments); });
}

// Whether a thread takes a group through both passes.
inline bool takes_whole_groups(const Geometry& g, int64_t threads) {
  return threads == 1 || g.groups % threads == 0 || g.groups >= 4 * threads;
}

// reduce(group, segment, sums) for every segment into `size` zeros, merge(group, sums, next sums) in order,
// finish(group, sums) once a group is whole, then map(group, segment). Where there are groups enough, a
// thread takes a group through all of it while the group is in its cache; otherwise the passes are
// separate and segments are shared out.
template <class R, class Merge, class F, class M> void two_passes(const Geometry& g, int64_t size,
                                                                  const R& reduce, const Merge& merge,
                                                                  const F& finish, const M& map) {
  const int64_t threads = threads_for(g);
  std::vector<double> sums(g.groups * g.segments * size);
  const auto at = [&](int64_t group, int64_t segment) {
    return sums.data() + (group * g.segments + segment) * size;
  };
  const auto conclude = [&](int64_t group) {
    for (int64_t segment = 1; segment < g.segments; ++segment) merge(group, at(group, 0), at(group, segment));
    finish(group, at(group, 0));
  };
  if (takes_whole_groups(g, threads)) {
    parallel(threads, g.groups, [&](int64_t group) {
      for (int64_t segment = 0; segment < g.segments; ++segment) reduce(group, segment, at(group, segment));
      conclude(group);
      for (int64_t segment = g.segments - 1; segment >= 0; --segment) map(group, segment);
    });
    return;
  }
  const int64_t items = g.groups * g.segments;
  parallel(threads, items,
           [&](int64_t i) { reduce(i / g.segments, i % g.segments, at(i / g.segments, i % g.segments)); });
  for (int64_t group = 0; group < g.groups; ++group) conclude(group);
  parallel(threads, items, [&](int64_t i) { map(i / g.segments, i % g.segments); });
}

}  // namespace batchnorm
