// The kernels of a dense linear model beside a plain read of the same bytes by the same number of
// threads. Reads and kernel runs alternate, so that whatever else the machine does hits both.
//
//   bench_kernels                                             everything (minutes, about 1 GB)
//   bench_kernels --benchmark_filter=smoke --benchmark_min_time=0.05
//   bench_kernels --benchmark_filter='hvp_k1/.*100000x1000'
//
// Counters, all medians: read_GBs and kernel_GBs, bytes of X per second; ratio, the time of a read
// over that of the kernel run that follows it (1 is the speed of memory, where X exceeds the
// caches).
#include <benchmark/benchmark.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/linear_model.hpp"
#include "implicitgrad/multiversion.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/runtime.hpp"

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

using implicitgrad::block;
using implicitgrad::const_block;
using implicitgrad::index;
using implicitgrad::layout;

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
  implicitgrad::parallel_for(blocks, threads, [&](index b, int) {
    const index begin = n * b / blocks, end = n * (b + 1) / blocks;
    sums[b] = sum(data.data() + begin, end - begin);
  });
  benchmark::DoNotOptimize(sums);
}

/// Cheap, and nothing a cache or a branch predictor could learn.
double noise(index i) {
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
    implicitgrad::parallel_for(s.rows, implicitgrad::default_threads(), [&](index i, int) {
      for (index j = i * s.cols; j < (i + 1) * s.cols; ++j)
        data.data()[j] = static_cast<T>(noise(j));
    });
    const index ld = order == layout::row_major ? s.cols : s.rows;
    x = std::make_shared<implicitgrad::dense_matrix<T>>(data.data(), s.rows, s.cols, ld, order);
    y.resize(static_cast<std::size_t>(s.rows));
    for (index i = 0; i < s.rows; ++i) y[i] = noise(i + 7) < 0 ? -1.0 : 1.0;
    theta.resize(static_cast<std::size_t>(s.cols));
    for (index j = 0; j < s.cols; ++j) theta[j] = noise(j + 3) / static_cast<double>(s.cols);
  }

  shape size;
  layout order;
  array<T> data;
  std::shared_ptr<implicitgrad::dense_matrix<T>> x;
  std::vector<double> y, theta;
};

/// The problem last asked for; only one is kept.
template <class T>
const problem<T>& cached_problem(shape s, layout order) {
  static std::unique_ptr<problem<T>> last;
  if (!last || last->size.rows != s.rows || last->size.cols != s.cols || last->order != order) {
    last.reset();
    last = std::make_unique<problem<T>>(s, order);
  }
  return *last;
}

double median(std::vector<double> v) {
  std::sort(v.begin(), v.end());
  const std::size_t middle = v.size() / 2;
  return v.size() % 2 ? v[middle] : 0.5 * (v[middle - 1] + v[middle]);
}

double seconds(const std::function<void()>& work) {
  const auto start = std::chrono::steady_clock::now();
  work();
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

/// Alternates reads and runs of `kernel`; the benchmark's own time is the kernel's. `settle` is a
/// wait before each read, for threads of other libraries to stop spinning.
template <class T>
void alternate(benchmark::State& state, const problem<T>& p, int threads, double flops,
               const std::function<void()>& kernel, std::chrono::milliseconds settle = {}) {
  std::vector<double> read_time, kernel_time, ratio;
  kernel();  // touches what it allocates
  for (auto _ : state) {
    if (settle.count() > 0) {
      std::this_thread::sleep_for(settle);
      plain_read(p.data, threads);  // wakes ours
    }
    read_time.push_back(seconds([&] { plain_read(p.data, threads); }));
    kernel_time.push_back(seconds(kernel));
    ratio.push_back(read_time.back() / kernel_time.back());
    state.SetIterationTime(kernel_time.back());
  }
  const double bytes = static_cast<double>(p.data.size()) * sizeof(T);
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * state.iterations());
  state.counters["read_GBs"] = 1e-9 * bytes / median(read_time);
  state.counters["kernel_GBs"] = 1e-9 * bytes / median(kernel_time);
  state.counters["ratio"] = median(ratio);
  state.counters["GFLOPS"] = 1e-9 * flops / median(kernel_time);
}

template <class T>
std::shared_ptr<const implicitgrad::linear_model> make_model(const problem<T>& p, int threads) {
  std::vector<index> group(static_cast<std::size_t>(p.size.cols));
  for (index j = 0; j < p.size.cols; ++j) group[j] = j;
  return std::make_shared<implicitgrad::linear_model>(
      p.x, p.y, std::vector<double>{}, "logistic",
      implicitgrad::penalty{0.0, p.size.cols, std::move(group)}, false, threads);
}

template <class T>
void hvp(benchmark::State& state, shape s, layout order, int threads, index k) {
  const problem<T>& p = cached_problem<T>(s, order);
  const std::vector<double> lam(static_cast<std::size_t>(s.cols));
  const auto at = make_model(p, threads)->linearize(p.theta.data(), lam.data());
  std::vector<double> v(static_cast<std::size_t>(s.cols * k)), out(v.size());
  for (index i = 0; i < s.cols * k; ++i) v[i] = noise(i + 11);
  alternate(state, p, threads, 4.0 * static_cast<double>(s.rows * s.cols * k), [&] {
    at->hess().apply(const_block{v.data(), s.cols, k}, block{out.data(), s.cols, k});
    benchmark::DoNotOptimize(out.data());
  });
}

/// Value, gradient and curvature.
template <class T>
void linearize(benchmark::State& state, shape s, layout order, int threads) {
  const problem<T>& p = cached_problem<T>(s, order);
  const auto model = make_model(p, threads);
  const std::vector<double> lam(static_cast<std::size_t>(s.cols));
  alternate(state, p, threads, 4.0 * static_cast<double>(s.rows * s.cols),
            [&] { benchmark::DoNotOptimize(model->linearize(p.theta.data(), lam.data())); });
}

template <class T>
void weighted_squares(benchmark::State& state, shape s, layout order, int threads) {
  const problem<T>& p = cached_problem<T>(s, order);
  const std::vector<double> d(static_cast<std::size_t>(s.rows), 0.25);
  std::vector<double> out(static_cast<std::size_t>(s.cols));
  alternate(state, p, threads, 3.0 * static_cast<double>(s.rows * s.cols), [&] {
    implicitgrad::weighted_squares(*p.x, false, d.data(), out.data(), threads);
    benchmark::DoNotOptimize(out.data());
  });
}

/// Bound by flops: see the GFLOPS.
template <class T>
void weighted_gram(benchmark::State& state, shape s, layout order, int threads) {
  const problem<T>& p = cached_problem<T>(s, order);
  const std::vector<double> root(static_cast<std::size_t>(s.rows), 0.5);
  const std::vector<double> ones(static_cast<std::size_t>(s.cols), 1.0);
  std::vector<double> out(static_cast<std::size_t>(s.cols * s.cols));
  alternate(
      state, p, threads, static_cast<double>(s.rows * s.cols) * static_cast<double>(s.cols),
      [&] {
        implicitgrad::weighted_gram<T>(*p.x, false, root.data(), ones.data(), out.data(), threads);
        benchmark::DoNotOptimize(out.data());
      },
      std::chrono::milliseconds(50));
}

using runner = std::function<void(benchmark::State&, shape, layout, int)>;

template <class T>
void register_for_type() {
  // About 16, 400, 800, 800 and 320 MB of float64.
  constexpr shape shapes[] = {{4000, 500, "smoke_4000x500"},
                              {1000000, 50, "1000000x50"},
                              {100000, 1000, "100000x1000"},
                              {20000, 5000, "20000x5000"},
                              {1000, 40000, "1000x40000"}};
  struct kernel {
    const char* name;
    runner run;
  };
  const auto product = [](index k) -> runner {
    return [k](benchmark::State& state, shape s, layout order, int threads) {
      hvp<T>(state, s, order, threads, k);
    };
  };
  const kernel kernels[] = {{"hvp_k1", product(1)},
                            {"hvp_k2", product(2)},
                            {"hvp_k5", product(5)},
                            {"linearize", linearize<T>},
                            {"weighted_squares", weighted_squares<T>},
                            {"weighted_gram", weighted_gram<T>}};
  // Shapes outside, kernels inside: each X is made once.
  for (const shape s : shapes)
    for (const layout order : {layout::row_major, layout::column_major})
      for (const int threads : {1, 2})
        for (const kernel& k : kernels) {
          if (std::string(k.name) == "weighted_gram" && s.cols > 1000) continue;  // p² entries
          const std::string name = std::string(k.name) +
                                   (std::is_same_v<T, double> ? "/float64" : "/float32") +
                                   (order == layout::row_major ? "/C/" : "/F/") + s.name +
                                   "/threads:" + std::to_string(threads);
          benchmark::RegisterBenchmark(name.c_str(),
                                       [run = k.run, s, order, threads](benchmark::State& state) {
                                         run(state, s, order, threads);
                                       })
              ->UseManualTime()
              ->Unit(benchmark::kMillisecond);
        }
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::AddCustomContext("simd", implicitgrad::simd_level());
  register_for_type<double>();
  register_for_type<float>();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
