// The cut of a tensor into groups, blocks and segments; the sizes were chosen by measurement.

#include "geometry.h"

#include <algorithm>
#include <numeric>

namespace batchnorm {
namespace {

constexpr int64_t SHORT_ROW = 64;           // so short rows, and shorter ones, are faster as columns
constexpr int64_t CACHE_BYTES = 128 << 10;  // of one array; with its output or gradient it fits an L2 cache
constexpr int64_t PAGE_BYTES = 4096;        // a group's run in one image, to stay friends with the prefetcher
constexpr int64_t NEAR_BYTES = 2 << 20;     // of the tensor: from here on not found in an L2 cache
constexpr int64_t FAR_BYTES = 4 << 20;      // a network's other tensors evict it
constexpr int64_t VAST_BYTES = 16 << 20;    // nor in the last cache
constexpr int64_t EVEN = 16;                // values: whole vectors and, in float32, whole cache lines
constexpr int64_t FIRST_LINES = 512;        // bytes
constexpr int64_t ROWS_AHEAD = 8;           // of the columns view
constexpr int64_t WIDE = 256;               // columns that make the ends of a row cheap
constexpr int64_t BLOCK_VALUES = 65536;     // of the columns view, between 64 and 128 rows
constexpr int64_t SEGMENT_VALUES = 65536;   // fewer are not worth a thread

int64_t divide_up(int64_t a, int64_t b) { return (a + b - 1) / b; }

// How many times so many values are a multiple of EVEN.
int64_t evens_of(int64_t values) { return EVEN / std::gcd<int64_t>(values, EVEN); }

void cut_channels(Geometry& g, int64_t group_channels) {
  g.groups = divide_up(g.C, std::clamp<int64_t>(group_channels, 1, g.C));
  g.group_channels = divide_up(g.C, g.groups);
  g.groups = divide_up(g.C, g.group_channels);
}

// `values`: of one unit in one group.
void cut_units(Geometry& g, int64_t block_units, int64_t values) {
  g.block_units = std::max<int64_t>(1, block_units);
  const int64_t blocks = divide_up(g.units, g.block_units);
  const int64_t worth = std::min(g.units * values / SEGMENT_VALUES, blocks);
  const int64_t segments = std::clamp<int64_t>(worth, 1, MAX_SEGMENTS);
  g.segment_units = std::max<int64_t>(1, divide_up(blocks, segments)) * g.block_units;
  g.segments = std::max<int64_t>(1, divide_up(g.units, g.segment_units));
}

}  // namespace

Geometry cut(int64_t N, int64_t C, int64_t S, bool channels_last, int64_t value_bytes, bool one_pass,
             int64_t band) {
  Geometry g{};
  g.N = N, g.C = C, g.S = S;
  g.columns = channels_last || S <= SHORT_ROW;
  g.inner = g.repeat = g.pieces = g.segments = g.group_channels = 1;
  if (N == 0 || C == 0 || S == 0) return g;  // no groups
  const int64_t bytes = N * C * S * value_bytes;
  g.far = bytes >= FAR_BYTES;
  g.vast = bytes >= VAST_BYTES;
  if (!g.columns) {
    g.piece = S < LONGEST_RUN ? PIECE : PIECE - PIECE % band;
    g.pieces = S < LONGEST_RUN ? 1 : (S + g.piece / 2) / g.piece;
    g.units = N * g.pieces;
    // The prefetcher learns where a long run goes from its first lines. What lies in a cache is soon there.
    g.fetched = g.far && S * value_bytes <= PAGE_BYTES ? S : FIRST_LINES / value_bytes;
    const int64_t friendly = divide_up(PAGE_BYTES, S * value_bytes);
    const int64_t cached = CACHE_BYTES / (N * S * value_bytes);
    cut_channels(g, one_pass ? C : std::max(friendly, std::min<int64_t>(cached, 64)));
    const int64_t unit = std::min(S, g.piece);
    cut_units(g, PIECE / unit, unit * g.group_channels);
    return g;
  }
  g.inner = channels_last ? 1 : S;
  const int64_t rows = channels_last ? N * S : N;
  const int64_t width = C * g.inner;
  if (width < WIDE) {
    const int64_t even = evens_of(width);
    int64_t repeat = divide_up(WIDE, width * even) * even;
    if (repeat * width > MAX_WIDTH) repeat = divide_up(WIDE, width);
    g.repeat = std::min(repeat, rows);
  }
  g.units = rows / g.repeat;
  g.rest = rows % g.repeat;
  g.row_stride = width * g.repeat;
  int64_t fitting = MAX_WIDTH / (g.inner * g.repeat);
  const int64_t even = evens_of(g.inner * g.repeat);
  if (even <= fitting && fitting < C) fitting -= fitting % even;
  g.group_channels = std::min(fitting, C);
  g.groups = divide_up(C, g.group_channels);
  const int64_t group_width = g.group_channels * g.inner * g.repeat;
  g.fetched = bytes >= NEAR_BYTES ? ROWS_AHEAD * g.row_stride : 0;
  cut_units(g, std::clamp<int64_t>(BLOCK_VALUES / group_width, 64, 128), group_width);
  return g;
}

}  // namespace batchnorm
