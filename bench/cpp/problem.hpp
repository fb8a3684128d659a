// What the benchmarks share: a problem in memory, a plain read of it, and the clock.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <vector>

#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/multiversion.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/runtime.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace implicitgrad::bench {

/// Four streams of several accumulators each: enough to wait for memory only.
template <class T>
IMPLICITGRAD_KERNEL T sum(const T* a, index count) {
  const index quarter = count / 4;
  const T *b = a + quarter, *c = b + quarter, *d = c + quarter;
  T s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
  for (index i = 0; i < quarter; ++i) s0 += a[i], s1 += b[i], s2 += c[i], s3 += d[i];
  for (index i = 4 * quarter; i < count; ++i) s0 += a[i];
  return (s0 + s1) + (s2 + s3);
}

/// Memory as NumPy gives it to large arrays: huge pages where the system lends them on request. The
/// first touch is in parallel.
template <class T>
class array {
 public:
  explicit array(index size) : size_(size) {
    constexpr std::size_t huge_page = std::size_t{2} << 20;
    const std::size_t bytes = static_cast<std::size_t>(size) * sizeof(T);
    data_.reset(static_cast<T*>(
        std::aligned_alloc(huge_page, (bytes + huge_page - 1) / huge_page * huge_page)));
    if (!data_) throw std::bad_alloc();
#ifdef __linux__
    madvise(data_.get(), bytes, MADV_HUGEPAGE);  // a wish: failing is fine
#endif
  }
  index size() const { return size_; }
  T* data() const { return data_.get(); }

 private:
  struct release {
    void operator()(T* p) const { std::free(p); }
  };
  index size_;
  std::unique_ptr<T, release> data_;
};

template <class T>
void plain_read(const array<T>& data, int threads) {
  constexpr index blocks = 64;
  const index n = data.size();
  T sums[blocks];
  parallel_for(blocks, threads, [&](index b, int) {
    const index begin = n * b / blocks, end = n * (b + 1) / blocks;
    sums[b] = sum(data.data() + begin, end - begin);
  });
  benchmark::DoNotOptimize(sums);
}

/// Cheap, and nothing a cache or a branch predictor could learn.
inline double noise(index i) {
  auto z = static_cast<std::uint64_t>(i) * 0x9e3779b97f4a7c15u;
  z ^= z >> 29;
  return static_cast<double>(static_cast<std::int64_t>(z)) * 0x1p-63;
}

struct shape {
  index rows, cols;
  const char* name;
};

template <class T>
struct problem {
  problem(shape s, layout storage) : size(s), order(storage), data(s.rows * s.cols) {
    parallel_for(s.rows, default_threads(), [&](index i, int) {
      for (index j = i * s.cols; j < (i + 1) * s.cols; ++j)
        data.data()[j] = static_cast<T>(noise(j));
    });
    const index ld = order == layout::row_major ? s.cols : s.rows;
    x = std::make_shared<dense_matrix<T>>(data.data(), s.rows, s.cols, ld, order);
    y.resize(static_cast<std::size_t>(s.rows));
    for (index i = 0; i < s.rows; ++i) y[i] = noise(i + 7) < 0 ? -1.0 : 1.0;
    theta.resize(static_cast<std::size_t>(s.cols));
    for (index j = 0; j < s.cols; ++j) theta[j] = noise(j + 3) / static_cast<double>(s.cols);
  }

  shape size;
  layout order;
  array<T> data;
  std::shared_ptr<dense_matrix<T>> x;
  std::vector<double> y, theta;
};

inline double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const std::size_t middle = v.size() / 2;
  return v.size() % 2 ? v[middle] : 0.5 * (v[middle - 1] + v[middle]);
}

inline double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace implicitgrad::bench
