// See output_memory.h.

#include "output_memory.h"

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <vector>

#if defined(__linux__)
#include <pthread.h>
#include <sys/mman.h>
#endif

// Since torch 2.11; null under 2.10, where every output is fresh.
extern "C" __attribute__((weak)) AOTITorchError torch_from_blob(
    void* data, int64_t ndim, const int64_t* sizes, const int64_t* strides, int64_t storage_offset, int32_t dtype,
    int32_t device_type, int32_t device_index, AtenTensorHandle* result, int32_t layout,
    const uint8_t* opaque_metadata, int64_t opaque_metadata_size, void (*deleter)(void* data, void* context),
    void* deleter_context);

namespace batchnorm {
namespace {

constexpr int64_t SMALLEST = 256 << 10;  // smaller ones the C library reuses itself
constexpr int64_t HUGE_PAGE = 2 << 20;

// Only advice: nothing happens where huge pages are off.
void advise_huge_pages(void* memory, int64_t bytes) {
#if defined(__linux__)
  if (bytes < 2 * HUGE_PAGE) return;
  const auto begin = reinterpret_cast<uintptr_t>(memory), end = begin + bytes;
  const auto first = (begin + HUGE_PAGE - 1) / HUGE_PAGE * HUGE_PAGE, last = end / HUGE_PAGE * HUGE_PAGE;
  // all of them will be written, so none is larger than needed
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)memory, (void)bytes;
#endif
}

// Blocks of memory that outputs have left. With those in use they are never more than what was once in use
// together, and one that nobody has wanted for long goes back to the system.
class Blocks {
 public:
  // Null if the system has none left, not even with what lay idle here.
  void* take(int64_t bytes) {
    {
      const std::lock_guard<std::mutex> lock(mutex);
      now += 1;
      in_use += bytes;
      most = std::max(most, in_use);
      // first of all, or what a larger pass has left would lie here as long as each output finds its block
      while (!idle.empty() && now - idle[0].since > LONG) std::free(remove(0));
      for (size_t i = idle.size(); i-- > 0;)
        if (idle[i].bytes == bytes) return remove(i);
      while (!idle.empty() && in_use + left > most) std::free(remove(0));
    }
    void* memory = nullptr;
    if (posix_memalign(&memory, bytes < 2 * HUGE_PAGE ? 64 : HUGE_PAGE, bytes)) {
      const std::lock_guard<std::mutex> lock(mutex);
      in_use -= bytes;
      while (!idle.empty()) std::free(remove(0));
      return nullptr;
    }
    advise_huge_pages(memory, bytes);
    return memory;
  }

  void give(void* memory, int64_t bytes) {
    const std::lock_guard<std::mutex> lock(mutex);
    in_use -= bytes;
    left += bytes;
    idle.push_back({memory, bytes, now});
  }

  std::mutex mutex;

 private:
  static constexpr int64_t LONG = 4096;  // outputs

  struct Block {
    void* memory;
    int64_t bytes, since;
  };

  void* remove(size_t i) {
    void* memory = idle[i].memory;
    left -= idle[i].bytes;
    idle.erase(idle.begin() + i);
    return memory;
  }

  std::vector<Block> idle;  // the longest idle first
  int64_t in_use = 0, left = 0, most = 0, now = 0;
};

// glibc gives the free end of its heap back where that is larger than twice the largest block that it has seen
// freed; blocks count up to 32 MB (decision 41). Here is one.
void let_the_heap_keep_memory() {
  void* volatile block = std::malloc((32 << 20) - (64 << 10));  // volatile, or the pair would be left out
  std::free(block);
}

// Never destroyed: tensors may outlive the library's other objects.
Blocks& blocks() {
  static Blocks* all = [] {
    let_the_heap_keep_memory();
    static Blocks* made = new Blocks;
#if defined(__linux__)
    // a process that forks while another thread holds the lock
    pthread_atfork([] { made->mutex.lock(); }, [] { made->mutex.unlock(); }, [] { made->mutex.unlock(); });
#endif
    return made;
  }();
  return *all;
}

bool reuses() {
  static const bool wanted = [] {
    const char* setting = std::getenv("BATCHNORM_REUSE_MEMORY");
    return torch_from_blob && !(setting && !std::strcmp(setting, "0"));
  }();
  return wanted;
}

void give_back(void* memory, void* bytes) { blocks().give(memory, reinterpret_cast<intptr_t>(bytes)); }

}  // namespace

torch::stable::Tensor new_output(const int64_t* sizes, const int64_t* strides, int64_t rank, int32_t dtype,
                                 int64_t bytes) {
  AtenTensorHandle handle;
  const int32_t cpu = aoti_torch_device_type_cpu();
  void* memory = bytes >= SMALLEST && reuses() ? blocks().take(bytes) : nullptr;
  if (memory) {
    STABLE_TORCH_ERROR_CODE_CHECK(torch_from_blob(memory, rank, sizes, strides, 0, dtype, cpu, -1, &handle,
                                                  aoti_torch_layout_strided(), nullptr, 0, give_back,
                                                  reinterpret_cast<void*>(static_cast<intptr_t>(bytes))));
    return torch::stable::Tensor(handle);
  }
  STABLE_TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(rank, sizes, strides, dtype, cpu, 0, &handle));
  const torch::stable::Tensor fresh(handle);
  advise_huge_pages(fresh.mutable_data_ptr(), bytes);
  return fresh;
}

}  // namespace batchnorm
