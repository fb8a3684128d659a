// The product XᵀDXV on every path of the kernels, against plain loops in extended precision, and
// with the same bits at any number of threads.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

constexpr layout layouts[] = {layout::row_major, layout::column_major};

/// The worst error of sandwich(X, D, V) in units of what rounding allows; `k` vectors, `m` columns
/// of weights.
template <class T>
void check_product(const stored_matrix<T>& x, bool intercept, index k, index m) {
  const auto view = x.view();
  const index n = x.rows, size = x.cols + (intercept ? 1 : 0);
  random_source random(62);
  const std::vector<double> d = random.vector(n * m), v = random.vector(size * k);
  std::vector<double> out(v.size(), nan);
  sandwich(view, intercept, as_block(d, n), 1, as_block(v, size), as_block(out, size), 1);

  std::vector<long double> row(size), want(size * k), scale(size * k);
  for (index i = 0; i < n; ++i) {
    for (index j = 0; j < size; ++j) row[j] = x.entry(i, j);
    for (index c = 0; c < k; ++c) {
      long double z = 0, z_scale = 0;
      for (index j = 0; j < size; ++j) {
        const long double term = row[j] * v[c * size + j];
        z += term, z_scale += std::abs(term);
      }
      const long double w = z * d[c % m * n + i], w_scale = z_scale * std::abs(d[c % m * n + i]);
      for (index j = 0; j < size; ++j) {
        want[c * size + j] += row[j] * w;
        scale[c * size + j] += std::abs(row[j]) * w_scale;
      }
    }
  }
  rounding_check check;
  for (index j = 0; j < size * k; ++j) check.add(out[j], want[j], scale[j], n + x.cols);
  const std::string name = describe(n, x.cols, x.order, x.ld);
  CAPTURE(name);
  CAPTURE(k);
  CAPTURE(m);
  CAPTURE(intercept);
  CHECK(check.worst() <= 1.0);
  for (const int threads : {2, 3}) {
    std::vector<double> again(v.size(), nan);
    sandwich(view, intercept, as_block(d, n), 1, as_block(v, size), as_block(again, size), threads);
    CHECK(same_bits(out, again));
  }
}

template <class T>
void check_shape(index n, index p, index padding) {
  for (const layout order : layouts) {
    const stored_matrix<T> x(n, p, order, padding, 61);
    for (const bool intercept : {false, true})
      for (const index k : {1, 2, 3, 5, 8}) {
        check_product(x, intercept, k, 1);
        if (k > 1) check_product(x, intercept, k, k);
      }
  }
}

}  // namespace

TEST_CASE_TEMPLATE("the product at every narrow width", T, double, float) {
  for (index p = 1; p <= 70; ++p) check_shape<T>(1 + p * 7 % 20, p, p % 3);
}

TEST_CASE_TEMPLATE("the product with few rows: streams that are empty or uneven", T, double,
                   float) {
  for (index n = 1; n <= 20; ++n) check_shape<T>(n, 37, 3);
}

TEST_CASE_TEMPLATE("the product at awkward widths", T, double, float) {
  for (const index p : {199, 200, 201, 1000}) check_shape<T>(31, p, 5);
  check_shape<T>(23, 5003, 1);
}

TEST_CASE_TEMPLATE("the product over several row blocks", T, double, float) {
  check_shape<T>(3001, 67, 1);
  check_shape<T>(9001, 9, 0);
  check_shape<T>(700, 201, 2);
}

TEST_CASE_TEMPLATE("the product over panels of every length", T, double, float) {
  // A block of 512 rows and one of the rest, two streams in float32 and four in float64.
  for (const index n : {130, 512, 513, 540}) {
    const stored_matrix<T> x(n, 900, layout::row_major, 0, 63);
    for (const index k : {1, 2, 6}) check_product(x, true, k, 1);
  }
}

TEST_CASE_TEMPLATE("the product of a column-major matrix over panels of every length", T, double,
                   float) {
  // Panels that are whole, that end inside a vector, and that are shorter than their predecessor;
  // float64 alternates up to 2000 columns and is pipelined beyond.
  for (const index p : {1, 3, 13, 203})
    for (const index n : {index{1}, index{2}, index{511}, index{512}, index{513}, index{1043}})
      for (const index padding : {0, 1}) {
        const stored_matrix<T> x(n, p, layout::column_major, padding, 64);
        for (const index k : {1, 2, 5, 7}) check_product(x, true, k, k);
      }
  for (const index n : {17, 63, 64, 131}) {
    const stored_matrix<T> x(n, 2011, layout::column_major, 5, 65);
    for (const index k : {1, 3, 6}) check_product(x, false, k, 1);
  }
}

TEST_CASE("what surrounds a column-major view is not read") {
  // Rows 3 to 40 of columns of 50, NaN elsewhere.
  for (const index p : {1, 6, 77}) {
    constexpr index ld = 50, first = 3, n = 38;
    random_source random(66);
    std::vector<double> data(static_cast<std::size_t>(ld * p), nan);
    for (index j = 0; j < p; ++j)
      for (index i = 0; i < n; ++i) data[j * ld + first + i] = random.symmetric();
    const dense_matrix<double> x(data.data() + first, n, p, ld, layout::column_major);
    const std::vector<float> narrow(data.begin(), data.end());
    const dense_matrix<float> y(narrow.data() + first, n, p, ld, layout::column_major);
    for (const index k : {1, 2, 3}) {
      const std::vector<double> d(static_cast<std::size_t>(n * k), 1.0), v = random.vector(p * k);
      std::vector<double> out(v.size(), nan);
      for (const Matrix* matrix :
           {static_cast<const Matrix*>(&x), static_cast<const Matrix*>(&y)}) {
        sandwich(*matrix, false, as_block(d, n), 1, as_block(v, p), as_block(out, p), 1);
        CHECK(std::all_of(out.begin(), out.end(), [](double e) { return std::isfinite(e); }));
      }
    }
  }
}

}  // namespace implicitgrad::testing
