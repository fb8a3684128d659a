// The product XᵀDXV and the linearisation beside a plain read of the same X, taken in turns in the
// same process: a table of GB/s of X, and of the median share of the read that precedes each run.
//
//   roofline [threads] [runs] [part of the layout and shape, as "F 100000x1000"]
#include <cstdio>
#include <string>

#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/linear_model.hpp"
#include "problem.hpp"

namespace {

using namespace implicitgrad;
using namespace implicitgrad::bench;

int threads = 2, runs = 11;

template <class T>
void measure(const problem<T>& p, const char* name, index k, const std::function<void()>& kernel) {
  std::vector<double> share, speed, plain;
  const double bytes = 1e-9 * static_cast<double>(p.data.size()) * sizeof(T);
  kernel();
  for (int i = 0; i < runs; ++i) {
    const double read = seconds([&] { plain_read(p.data, threads); }), used = seconds(kernel);
    share.push_back(read / used), speed.push_back(bytes / used), plain.push_back(bytes / read);
  }
  std::printf("%-10s %s  float%zu  %15s  k=%td  %6.1f GB/s  of %6.1f  %5.1f %%\n", name,
              p.order == layout::row_major ? "C" : "F", 8 * sizeof(T), p.size.name, k,
              median(speed), median(plain), 100.0 * median(share));
  std::fflush(stdout);
}

/// k = m vectors, a column of weights each.
template <class T>
void measure_product(const problem<T>& p, index k) {
  const std::vector<double> d(static_cast<std::size_t>(p.size.rows * k), 0.25);
  std::vector<double> v(static_cast<std::size_t>(p.size.cols * k)), out(v.size());
  for (std::size_t i = 0; i < v.size(); ++i) v[i] = noise(static_cast<index>(i) + 11);
  measure(p, "sandwich", k, [&] {
    sandwich(*p.x, false, {d.data(), p.size.rows, k}, 1, {v.data(), p.size.cols, k},
             {out.data(), p.size.cols, k}, threads);
    benchmark::DoNotOptimize(out.data());
  });
}

template <class T>
void measure_shape(shape s, layout order) {
  if (sizeof(T) == 4) s.rows *= 2;  // the same bytes
  const std::string name = std::to_string(s.rows) + "x" + std::to_string(s.cols);
  s.name = name.c_str();
  const problem<T> p(s, order);
  for (const index k : {1, 2, 3, 4, 5, 8})
    if (k == 1 || k == 5 || s.cols == 1000) measure_product(p, k);
  const auto model =
      make_linear_model(p.x, p.y, std::vector<double>{}, "logistic", penalty{}, false, threads);
  measure(p, "linearize", 1, [&] { benchmark::DoNotOptimize(model->data().at(p.theta.data())); });
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1) threads = std::atoi(argv[1]);
  if (argc > 2) runs = std::atoi(argv[2]);
  const std::string part = argc > 3 ? argv[3] : "";
  // 400 to 800 MB.
  const shape shapes[] = {{6000000, 8, "6000000x8"},   {1000000, 50, "1000000x50"},
                          {400000, 200, "400000x200"}, {100000, 1000, "100000x1000"},
                          {20000, 5000, "20000x5000"}, {5000, 20000, "5000x20000"},
                          {500, 100000, "500x100000"}};
  std::printf("%s, %d threads; medians of %d runs, each after a plain read of X\n", simd_level(),
              threads, runs);
  for (const shape& s : shapes)
    for (const layout order : {layout::row_major, layout::column_major})
      if (((order == layout::row_major ? "C " : "F ") + std::string(s.name)).find(part) !=
          std::string::npos) {
        measure_shape<double>(s, order);
        measure_shape<float>(s, order);
      }
}
