// Around the caches: what is asked for before it is read, and what is written past them.

#pragma once

#include "vec.h"

namespace batchnorm::BATCHNORM_ISA {

// Asks for the cache lines of so many values from p on.
template <class T> BATCHNORM_INLINE void prefetch(const T* p, int64_t values) {
  const char* line = reinterpret_cast<const char*>(p);
  for (const char* end = line + values * sizeof(T); line < end; line += 64) __builtin_prefetch(line, 0, 2);
}

// Stores past the cache, without reading the memory first; p is at the start of a vector of memory.
template <class T> inline void stream(T* p, vec<acc_t<T>> v) {
  const auto packed = pack<T>(v);
#if defined(__AVX512F__)
  if constexpr (sizeof packed == 64) return _mm512_stream_si512((__m512i*)p, (__m512i)packed);
#endif
#if defined(__AVX2__)
  if constexpr (sizeof packed == 32) return _mm256_stream_si256((__m256i*)p, (__m256i)packed);
#endif
#if defined(__SSE2__)
  if constexpr (sizeof packed == 16) return _mm_stream_si128((__m128i*)p, (__m128i)packed);
#endif
  store_raw(p, packed);
}
// Makes streamed values visible to other threads before what is stored later.
inline void end_stream() {
#if defined(__SSE2__)
  _mm_sfence();
#endif
}
// Streams the lanes from `begin` up to `end`. Of a line that is written in parts, one after the other, the
// processor makes one write.
template <class T> BATCHNORM_INLINE void stream_some(T* p, vec<acc_t<T>> v, int begin, int end) {
  T values[LANES<acc_t<T>>];
  store(values, v);
#if defined(__SSE2__)
  int* to = reinterpret_cast<int*>(p + begin);
  const char *from = reinterpret_cast<char*>(values + begin), *last = reinterpret_cast<char*>(values + end);
  for (int word; from < last; from += sizeof word) {
    std::memcpy(&word, from, sizeof word);
    _mm_stream_si32(to++, word);
  }
#else
  std::memcpy(p + begin, values + begin, (end - begin) * sizeof(T));
#endif
}
// How so many values from p on are written: past the cache if that is wanted, they begin and end with a word,
// and a cache line starts among them with a vector's length before it and after it. The first `head` values lie
// before that line.
struct Way {
  bool past_cache;
  int64_t head;

  template <class T>
  BATCHNORM_INLINE Way(bool wanted, const T* p, int64_t values)
      : past_cache(wanted && values >= 32 &&
                   (reinterpret_cast<uintptr_t>(p) | (values * sizeof(T))) % sizeof(int) == 0),
        head(past_cache ? -reinterpret_cast<uintptr_t>(p) % 64 / sizeof(T) : 0) {}
};

}  // namespace batchnorm::BATCHNORM_ISA
