// How to write a large output: what its pages and the cache ask for.

#pragma once

#include <cstdint>

namespace batchnorm {

// Prepares memory that is about to be written from end to end, and says whether to write past the cache.
//
//   fresh pages  The kernel zeroes a page when it is first touched: 2 MB pages are asked for, which halves
//                the time that costs, and the zeroes it left in the cache are overwritten there.
//   used pages   An output larger than the cache would be read into it only to be overwritten; past the
//                cache a copy runs at 25 instead of 12 GB/s (measured on a Zen 3 server, 25 to 50 MB).
bool prepare_output(void* memory, int64_t bytes);

}  // namespace batchnorm
