// How the kernels walk a tensor, and into which fixed pieces its work is cut.
//
// There are two views of a batch of N x C x S values (S = prod(spatial)):
//
//   rows     contiguous tensors with a long S: channel c of image n is one run of S values. Statistics
//            live in vector lanes that all belong to one channel.
//   columns  channels_last tensors, (N, C) and contiguous tensors with a short S: the memory is a
//            matrix whose column j always belongs to channel (j / inner) mod C. Statistics live in one
//            lane a column. `repeat` matrix rows are laid side by side until a row is wide enough for
//            full vectors, so 3 channels are as fast as 300.
//
// The cut depends on the shape alone, never on the number of threads; with sums merged in a fixed order
// that makes results bit-identical for any number of threads.
//
//   channels -> groups    what one thread keeps in its cache between the passes over it
//   values   -> units     a run of one image's row, or one matrix row
//   units    -> blocks    summed in float lanes
//   blocks   -> segments  summed in double; a (group, segment) pair is what a thread takes

#pragma once

#include <cstdint>

// Also where it is not optimized: an inline function shared by files compiled for different instruction
// sets must never be linked from the most modern of them.
#define BATCHNORM_INLINE inline __attribute__((always_inline))
// The same of a lambda, where measured to be faster.
#define BATCHNORM_BODY __attribute__((always_inline))
// For what is called seldom from many kernels.
#define BATCHNORM_APART __attribute__((noinline))

namespace batchnorm {

constexpr int64_t PIECE = 2048;  // usual unit of the rows view: 8 KB of float32, a quarter of an L1 cache
constexpr int64_t LONGEST_RUN = PIECE + PIECE / 2;  // a short rest is not cut off
constexpr int64_t MAX_WIDTH = 1024;  // columns of a group: a column's scratch is 12 bytes, to stay in L1
constexpr int64_t MAX_SEGMENTS = 64;

struct Geometry {
  int64_t N, C, S;
  bool columns;

  int64_t group_channels, groups;
  int64_t units, block_units, segment_units, segments;
  bool far;         // too large to be found in a cache when a pass begins
  bool vast;        // too large to stay in any cache
  int64_t fetched;  // rows: values of the next unit to ask for while one is computed; columns: how far ahead

  int64_t pieces;      // rows: units in one image's row
  int64_t piece;       // rows: values of such a unit, but for the last
  int64_t inner;       // columns: neighbouring columns of one channel
  int64_t repeat;      // columns: tensor rows side by side in one matrix row
  int64_t row_stride;  // columns: values from one matrix row to the next
  int64_t rest;        // columns: tensor rows left over at the end, fewer than `repeat`

  BATCHNORM_INLINE int64_t first_channel(int64_t group) const { return group * group_channels; }
  BATCHNORM_INLINE int64_t channels(int64_t group) const {
    const int64_t left = C - first_channel(group);
    return left < group_channels ? left : group_channels;
  }
  // Values of a group, whole matrix rows where those are the units.
  BATCHNORM_INLINE int64_t group_values() const {
    return columns ? (units + (rest > 0)) * group_channels * inner * repeat : N * S * group_channels;
  }
  BATCHNORM_INLINE int64_t first_unit(int64_t segment) const { return segment * segment_units; }
  BATCHNORM_INLINE int64_t last_unit(int64_t segment) const {
    return segment + 1 == segments ? units : (segment + 1) * segment_units;
  }
};

// `channels_last` says where the channel is; `value_bytes` is the size of one value of the tensor. With
// `one_pass` nothing needs to stay in the cache, and all channels are one group: memory is walked in order.
// Runs of contiguous tensors are whole bands of so many values, at most PIECE.
Geometry cut(int64_t N, int64_t C, int64_t S, bool channels_last, int64_t value_bytes, bool one_pass = false,
             int64_t band = 1);

}  // namespace batchnorm
