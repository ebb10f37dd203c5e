// See output_memory.h.

#include "output_memory.h"

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace batchnorm {
namespace {

constexpr int64_t CACHE_BYTES = 16 << 20;
constexpr int64_t HUGE_PAGE_BYTES = 2 << 20;

}  // namespace

bool prepare_output(void* memory, int64_t bytes) {
#if defined(__linux__)
  if (bytes >= 2 * HUGE_PAGE_BYTES) {
    const auto begin = reinterpret_cast<uintptr_t>(memory), end = begin + bytes;
    const auto first = (begin + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    const auto last = end / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
    // Only advice: nothing happens where huge pages are off. All of the pages will be written, so none is
    // larger than needed.
    madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
  }
#else
  (void)memory;
#endif
  return bytes >= CACHE_BYTES;
}

}  // namespace batchnorm
