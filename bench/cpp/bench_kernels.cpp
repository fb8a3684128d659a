// The kernels of a dense linear model beside a plain read of the same bytes by the same number of
// threads. Reads and kernel runs alternate, so that whatever else the machine does hits both.
//
//   bench_kernels                                             everything (minutes, about 1 GB)
//   bench_kernels --benchmark_filter=smoke --benchmark_min_time=0.05
//   bench_kernels --benchmark_filter='hvp_k1/.*100000x1000'
//
// Counters, all medians: read_GBs and kernel_GBs, bytes of X per second; ratio, the time of a read
// over that of the kernel run that follows it (1 is the speed of memory, where X exceeds the
// caches). margins: the logistic loss alone over runs of rows, beside the same formulas row by row
// with the C library's exp and log1p; ratio is the time of these over that of the kernel.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/linear_model.hpp"
#include "implicitgrad/runtime.hpp"
#include "kernels/margins.hpp"
#include "problem.hpp"

namespace {

using implicitgrad::block;
using implicitgrad::const_block;
using implicitgrad::index;
using implicitgrad::layout;
using namespace implicitgrad::bench;

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
  return implicitgrad::make_linear_model(p.x, p.y, std::vector<double>{}, "logistic",
                                         implicitgrad::penalty{0.0, p.size.cols, std::move(group)},
                                         false, threads);
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
  alternate(state, p, threads, 4.0 * static_cast<double>(s.rows * s.cols),
            [&] { benchmark::DoNotOptimize(model->data().at(p.theta.data())); });
}

double margins_row_by_row(index count, double* z, const double* y, const double* c,
                          double* curvature) {
  double sum = 0.0;
  for (index i = 0; i < count; ++i) {
    const double margin = y[i] * z[i], e = std::exp(-std::abs(z[i])), u = 1.0 / (1.0 + e);
    sum += c[i] * (std::log1p(e) + (margin < 0 ? -margin : 0.0));
    z[i] = c[i] * (margin < 0 ? -y[i] * u : -y[i] * e * u);
    curvature[i] = c[i] * e * u * u;
  }
  return sum;
}

/// In cache: runs of `count` rows, of 8192 in all.
void margins(benchmark::State& state, index count) {
  constexpr index n = 8192;
  std::vector<double> z(n), work(n), y(n), c(n, 0.5), curvature(n), before, after, ratio;
  for (index i = 0; i < n; ++i) z[i] = 4.0 * noise(i), y[i] = noise(i + 7) < 0 ? -1.0 : 1.0;
  const auto evaluate = implicitgrad::kernels::evaluate_margins("logistic");
  const auto run = [&](const auto& body) {
    work = z;
    return seconds([&] {
      double sum = 0.0;
      for (index i = 0; i + count <= n; i += count) sum += body(i);
      benchmark::DoNotOptimize(sum);
    });
  };
  for (auto _ : state) {
    before.push_back(run(
        [&](index i) { return margins_row_by_row(count, &work[i], &y[i], &c[i], &curvature[i]); }));
    after.push_back(run([&](index i) {
      return evaluate(count, &work[i], &y[i], &c[i], 0.0, &curvature[i]).value;
    }));
    ratio.push_back(before.back() / after.back());
    state.SetIterationTime(after.back());
  }
  state.counters["ns_per_row"] = 1e9 * median(after) / n;
  state.counters["ratio"] = median(ratio);
}

template <class T>
void weighted_squares(benchmark::State& state, shape s, layout order, int threads) {
  const problem<T>& p = cached_problem<T>(s, order);
  const std::vector<double> d(static_cast<std::size_t>(s.rows), 0.25);
  std::vector<double> out(static_cast<std::size_t>(s.cols));
  alternate(state, p, threads, 3.0 * static_cast<double>(s.rows * s.cols), [&] {
    implicitgrad::weighted_squares(*p.x, false, {d.data(), s.rows, 1}, {out.data(), s.cols, 1},
                                   threads);
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
  // About 16, 400, 400, 400, 800, 800, 800 and 400 MB of float64.
  constexpr shape shapes[] = {{4000, 500, "smoke_4000x500"}, {5000000, 10, "5000000x10"},
                              {1000000, 50, "1000000x50"},   {100000, 500, "100000x500"},
                              {100000, 1000, "100000x1000"}, {20000, 5000, "20000x5000"},
                              {5000, 20000, "5000x20000"},   {500, 100000, "500x100000"}};
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
                            {"hvp_k8", product(8)},
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
  for (const index count : {2, 4, 8, 61, 64, 256})
    benchmark::RegisterBenchmark(("margins/logistic/smoke_rows:" + std::to_string(count)).c_str(),
                                 [count](benchmark::State& state) { margins(state, count); })
        ->UseManualTime()
        ->Unit(benchmark::kMicrosecond);
  register_for_type<double>();
  register_for_type<float>();
  benchmark::Initialize(&argc, argv);
  if (benchmark::ReportUnrecognizedArguments(argc, argv)) return 1;
  benchmark::RunSpecifiedBenchmarks();
  benchmark::Shutdown();
  return 0;
}
