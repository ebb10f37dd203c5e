// Registers the CPU kernels with torch's dispatcher, when the library is loaded.

#include <torch/csrc/stable/library.h>

#include "operators.h"

STABLE_TORCH_LIBRARY_IMPL(batchnorm, CPU, library) {
  library.impl("batch_norm_forward", TORCH_BOX(&batchnorm::batch_norm_forward));
  library.impl("batch_norm_forward_update", TORCH_BOX(&batchnorm::batch_norm_forward_update));
  library.impl("batch_norm_backward", TORCH_BOX(&batchnorm::batch_norm_backward));
  library.impl("normalize", TORCH_BOX(&batchnorm::normalize));
  library.impl("normalize_backward", TORCH_BOX(&batchnorm::normalize_backward));
  library.impl("update_running_stats", TORCH_BOX(&batchnorm::update_running_stats));
  library.impl("moments", TORCH_BOX(&batchnorm::moments));
  library.impl("forward_apply", TORCH_BOX(&batchnorm::forward_apply));
  library.impl("backward_reduce", TORCH_BOX(&batchnorm::backward_reduce));
  library.impl("backward_apply", TORCH_BOX(&batchnorm::backward_apply));
}

// The instruction set in use, for tests and benchmarks; throws as the first operator call would.
extern "C" __attribute__((visibility("default"))) const char* batchnorm_instruction_set() {
  return batchnorm::instruction_set();
}
