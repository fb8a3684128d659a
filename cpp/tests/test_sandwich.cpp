// The product XᵀDXV on every path of the kernels, against plain loops in extended precision, and
// with the same bits at any number of threads.
#include <doctest/doctest.h>

#include <vector>

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

}  // namespace implicitgrad::testing
