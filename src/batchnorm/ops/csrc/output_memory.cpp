// See output_memory.h. Only Linux says whether pages are fresh; elsewhere outputs go through the cache.

#include "output_memory.h"
#include <cstdlib>

#if defined(__linux__)
#include <sys/mman.h>
#include <unistd.h>
#endif

namespace batchnorm {

#if defined(__linux__)
namespace {

constexpr int64_t CACHE_BYTES = 16 << 20;
constexpr uintptr_t HUGE_PAGE_BYTES = 2 << 20;

bool in_use(uintptr_t address, uintptr_t page) {
  unsigned char resident = 1;
  return mincore(reinterpret_cast<void*>(address / page * page), 1, &resident) != 0 || (resident & 1);
}

}  // namespace

bool prepare_output(void* memory, int64_t bytes) {
  if (getenv("BN_STREAM")) return bytes>CACHE_BYTES && atoi(getenv("BN_STREAM"));
  if (bytes < 2 * static_cast<int64_t>(HUGE_PAGE_BYTES)) return false;
  static const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = reinterpret_cast<uintptr_t>(memory), end = begin + static_cast<uintptr_t>(bytes);
  if (in_use(begin + bytes / 4, page) && in_use(begin + bytes / 4 * 3, page)) return bytes >= CACHE_BYTES;
  const uintptr_t first = (begin + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
  const uintptr_t last = end / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
  // only advice: where huge pages are off nothing happens
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  return false;
}
#else
bool prepare_output(void*, int64_t) { return false; }
#endif

}  // namespace batchnorm
