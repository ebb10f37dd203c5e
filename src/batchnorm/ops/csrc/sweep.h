// One pass over a run of values, vector by vector, with its remainder.
//
// The remainder is one more full vector that ends where the run ends and so overlaps its predecessor: an
// elementwise kernel writes the same results twice, a sum leaves the overlap out (`keep`). Only a run
// shorter than one vector is copied to be padded.

#pragma once

#include "memory.h"

namespace batchnorm::BATCHNORM_ISA {

// All lanes count.
template <class A> struct AllLanes {
  template <class T> BATCHNORM_INLINE vec<A> load(const T* p) const { return BATCHNORM_ISA::load(p); }
  template <class T> BATCHNORM_INLINE void store(T* p, vec<A> v) const { BATCHNORM_ISA::store(p, v); }
  template <class T> BATCHNORM_INLINE void write(bool past_cache, T* p, vec<A> v) const {
    if (past_cache) return BATCHNORM_ISA::stream(p, v);
    BATCHNORM_ISA::store(p, v);
  }
  BATCHNORM_INLINE vec<A> keep(vec<A> v) const { return v; }
};

// The first `count` lanes from memory, the others 0; and back.
template <class T> BATCHNORM_APART vec<acc_t<T>> load_some(const T* p, int count) {
  T padded[LANES<acc_t<T>>] = {};
  std::memcpy(padded, p, count * sizeof(T));
  return load(padded);
}
template <class T> BATCHNORM_APART void store_some(T* p, vec<acc_t<T>> v, int count) {
  T padded[LANES<acc_t<T>>];
  store(padded, v);
  std::memcpy(p, padded, count * sizeof(T));
}

// Lanes from `begin` up to `end` count. Memory is there for all of them, unless it `stops` at `end`.
template <class A> struct SomeLanes {
  int begin, end;
  bool stops;

  template <class T> BATCHNORM_INLINE vec<A> load(const T* p) const {
    return stops ? load_some(p, end) : BATCHNORM_ISA::load(p);
  }
  template <class T> BATCHNORM_INLINE void store(T* p, vec<A> v) const {
    if (!stops) return BATCHNORM_ISA::store(p, v);
    store_some(p, v, end);
  }
  // The other lanes stay: they have been written, perhaps over what they were computed from.
  template <class T> BATCHNORM_INLINE void write(bool past_cache, T* p, vec<A> v) const {
    if (past_cache) return stream_some(p, v, begin, end);
    store(p, stops ? v : counts() ? v : BATCHNORM_ISA::load(p));
  }
  BATCHNORM_INLINE vec<A> keep(vec<A> v) const { return counts() ? v : vec<A>{}; }
  BATCHNORM_INLINE mask<A> counts() const {
    mask<A> lane;
    for (int i = 0; i < LANES<A>; ++i) lane[i] = i;
    return (lane >= begin) & (lane < end);
  }
};

// Calls f(j, k, lanes) for the vectors at j = 0, W, 2W, … of a run; k < `ways` names an accumulator, so
// that sums do not wait for each other. The first `head` values go apart, so that the vectors after them are
// at the start of a cache line where they are written past the cache.
template <class A, int ways = 1, class F>
BATCHNORM_INLINE void sweep(int64_t length, int64_t head, const F& f) {
  constexpr int W = LANES<A>;
  int64_t j = 0;
  for (; j < head; j += W) f(j, 0, SomeLanes<A>{0, int(head - j < W ? head - j : W), false});
  j = head;
  if constexpr (ways == 4) {
    for (; j + 4 * W <= length; j += 4 * W) {
      f(j, 0, AllLanes<A>{});
      f(j + W, 1, AllLanes<A>{});
      f(j + 2 * W, 2, AllLanes<A>{});
      f(j + 3 * W, 3, AllLanes<A>{});
    }
  }
  for (; j + W <= length; j += W) f(j, 0, AllLanes<A>{});
  if (j == length) return;
  if (length >= W) {
    f(length - W, 0, SomeLanes<A>{int(W - (length - j)), W, false});
  } else {
    f(0, 0, SomeLanes<A>{0, int(length), true});
  }
}
template <class A, int ways = 1, class F> BATCHNORM_INLINE void sweep(int64_t length, const F& f) {
  sweep<A, ways>(length, 0, f);
}

}  // namespace batchnorm::BATCHNORM_ISA
