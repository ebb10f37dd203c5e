// Which instruction set's kernels run: the best this CPU has, or the one BATCHNORM_CPU_ISA names.

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace batchnorm {

#define BATCHNORM_DECLARE(isa)                                                         \
  namespace isa {                                                                      \
  extern const Family family_float32, family_bfloat16, family_float16, family_float64; \
  }
#define BATCHNORM_ENTRY(isa)                                                                          \
  {                                                                                                   \
    #isa, { &isa::family_float32, &isa::family_bfloat16, &isa::family_float16, &isa::family_float64 } \
  }

BATCHNORM_DECLARE(baseline)
#if defined(__x86_64__)
BATCHNORM_DECLARE(avx2)
BATCHNORM_DECLARE(avx512)
#endif

namespace {

struct InstructionSet {
  const char* name;
  const Family* families[DTYPES];
};

// In rising order.
const InstructionSet SETS[] = {
    BATCHNORM_ENTRY(baseline),
#if defined(__x86_64__)
    BATCHNORM_ENTRY(avx2),
    BATCHNORM_ENTRY(avx512),
#endif
};

bool supported(const char* name) {
#if defined(__x86_64__)
  if (!std::strcmp(name, "avx2"))
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!std::strcmp(name, "avx512"))
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512cd");
#endif
  return true;
}

const InstructionSet& choose() {
  const char* wanted = std::getenv("BATCHNORM_CPU_ISA");
  const InstructionSet* best = nullptr;
  std::string names;
  for (const InstructionSet& set : SETS) {
    if (!supported(set.name)) continue;
    names += std::string(names.empty() ? "" : ", ") + set.name;
    if (!wanted || !*wanted || !std::strcmp(wanted, set.name)) best = &set;
  }
  if (!best)
    throw std::runtime_error("batch_norm: BATCHNORM_CPU_ISA expected one that this CPU has, " + names +
                             ", got " + wanted);
  return *best;
}

const InstructionSet& chosen() {
  static const InstructionSet& set = choose();
  return set;
}

}  // namespace

const Family& family(Dtype dtype) { return *chosen().families[dtype]; }
const char* instruction_set() { return chosen().name; }

}  // namespace batchnorm
