// Fixed row blocks and a parallel loop. The number of blocks depends on the shape of the data only,
// and partial sums are added in block order, so results have the same bits at any thread count.
#pragma once

#include <omp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <utility>
#include <vector>

#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// Blocks of equally many rows or, given `bounds`, those from bounds[b] to bounds[b + 1].
struct row_blocks {
  index rows;
  index rows_per_block;
  const std::vector<index>* bounds = nullptr;

  index count() const {
    if (bounds) return static_cast<index>(bounds->size()) - 1;
    return (rows + rows_per_block - 1) / rows_per_block;
  }
  index begin(index b) const { return bounds ? (*bounds)[b] : b * rows_per_block; }
  index end(index b) const {
    return bounds ? (*bounds)[b + 1] : std::min(rows, (b + 1) * rows_per_block);
  }
};

/// Blocks whose partial sums are alive at the same time; also the stride at which Ctrl-C is polled.
inline constexpr index max_live_blocks = 64;

/// As many, but for wide blocks of vectors: their partial sums stay below 16 MB, which caches hold
/// and allocators keep, though four at least and one for each thread. How many are alive does not
/// change the order in which they are added.
inline index live_blocks(index partial_size, int n_threads) {
  const index least = std::clamp<index>(n_threads, 4, max_live_blocks);
  return std::clamp<index>((index{1} << 21) / std::max<index>(partial_size, 1), least,
                           max_live_blocks);
}

/// Rows are cut so that a block holds at least 2^16 entries (below that a thread costs more than it
/// gives) and at least 16 rows, or up to 64 where that leaves 16 blocks (writing and reading the
/// partial sums costs as much as reading three rows, or six of float32); then at most 64 blocks,
/// unless a block would exceed 2^22 entries (Ctrl-C could not be polled in time).
inline row_blocks partition_rows(index rows, index cols) {
  constexpr index least_entries = index{1} << 16, most_entries = index{1} << 22;
  const index width = std::max<index>(cols, 1);
  const index least_rows = std::clamp<index>(std::min(rows / 16, most_entries / width), 16, 64);
  const index least = std::max(least_rows, least_entries / width);
  const index most = std::max(least, most_entries / width);
  const index even = (rows + max_live_blocks - 1) / max_live_blocks;
  const index chosen = std::clamp(even, least, most);
  return {rows, (chosen + 15) / 16 * 16};  // whole cache lines of a column, float32 too
}

/// Threads that have been idle for some milliseconds sleep, and waking them can take a tick of the
/// scheduler (4 ms where it wakes them on the processor of the thread that waits for them). So each
/// burst of work begins on one thread, and calls for the others only once it has lasted about half
/// as long as waking may take: a short call after a pause never waits, a long one loses little.
struct work_burst {
  using clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds asleep_after{2};

  static inline std::atomic<std::chrono::nanoseconds> patience{std::chrono::milliseconds{2}};

  clock::time_point last;            // when this thread last worked
  std::chrono::nanoseconds alone{};  // for how long it has worked without the others since a pause

  static work_burst& of_this_thread() {
    static thread_local work_burst burst;
    return burst;
  }

  /// The first iterations of a loop, alone; returns how many.
  template <class Body>
  index begin(index count, Body&& body) {
    clock::time_point now = clock::now();
    if (now - last > asleep_after) alone = {};
    index i = 0;
    for (; i < count && alone < patience.load(std::memory_order_relaxed); ++i) {
      body(i, 0);
      const clock::time_point start = std::exchange(now, clock::now());
      alone += now - start;
    }
    last = now;
    return i;
  }
};

/// body(i, slot) for i in [0, count) on up to n_threads threads; slot < n_threads numbers the
/// thread, for its workspace. The body must not throw.
template <class Body>
void parallel_for(index count, int n_threads, Body&& body) {
  const int threads = static_cast<int>(std::min<index>(n_threads, count));
  if (threads <= 1) {
    for (index i = 0; i < count; ++i) body(i, 0);
    return;
  }
  work_burst& burst = work_burst::of_this_thread();
  const index first = burst.begin(count, body);
  if (first == count) return;
#pragma omp parallel for num_threads(threads) schedule(dynamic, 1)
  for (index i = first; i < count; ++i) body(i, omp_get_thread_num());
  burst.last = work_burst::clock::now();
}

}  // namespace implicitgrad
