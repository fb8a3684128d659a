#include <doctest/doctest.h>

#include "implicitgrad/gram.hpp"
#include "support.hpp"

using namespace implicitgrad;
using namespace implicitgrad::testing;

namespace {

template <class T>
void check_panel(index q, index count) {
  random_source random(static_cast<std::uint64_t>(1000 * q + count));
  gram_panel<T> panel(q, count, 1 << 16);
  const index depth = std::min(count, panel.depth());
  std::vector<std::vector<double>> vectors;
  const std::vector<double> scale = random.vector(q);
  for (index k = 0; k < depth; ++k) {
    vectors.push_back(random.vector(q));
    panel.pack(k, vectors.back().data(), scale.data(), q);
    for (index i = 0; i < q; ++i) CHECK(panel.at(k, i) == static_cast<T>(vectors[k][i] * scale[i]));
  }
  const std::vector<double> start = random.vector(q * q);
  std::vector<double> out = start;
  panel.add_to(out.data(), depth, 1);
  const double unit = sizeof(T) == sizeof(float) ? 0x1p-24 : DBL_EPSILON;
  double worst = 0.0;
  bool upper_untouched = true;
  for (index j = 0; j < q; ++j)
    for (index i = 0; i < q; ++i) {
      if (i < j) {
        upper_untouched = upper_untouched && out[j * q + i] == start[j * q + i];
        continue;
      }
      long double want = start[j * q + i], size = std::abs(want);
      for (index k = 0; k < depth; ++k) {
        const long double term =
            static_cast<long double>(panel.at(k, i)) * static_cast<long double>(panel.at(k, j));
        want += term;
        size += std::abs(term);
      }
      const long double error = std::abs(static_cast<long double>(out[j * q + i]) - want);
      worst = std::max(worst, static_cast<double>(error / (unit * (depth + 4) * size)));
    }
  CHECK(worst <= 1.0);
  CHECK(upper_untouched);
  for (const int threads : {2, 3}) {
    std::vector<double> again = start;
    panel.add_to(again.data(), depth, threads);
    CHECK(same_bits(out, again));
  }
}

}  // namespace

TEST_CASE("the sum of outer products, in either precision, at any number of threads") {
  for (const index q : {1, 2, 7, 8, 9, 23, 24, 25, 47, 48, 49, 95, 97, 150})
    for (const index count : {1, 3, 31, 200}) {
      CAPTURE(q);
      CAPTURE(count);
      check_panel<double>(q, count);
      check_panel<float>(q, count);
    }
}

TEST_CASE("a wide Gram matrix, whose tiles are shared, equals the naive sum") {
  const index n = 77,
              p = 301;  // beyond the order up to which blocks of rows have sums of their own
  const stored_matrix<double> x(n, p, layout::row_major, 3, 5);
  const auto view = x.view();
  random_source random(6);
  std::vector<double> root(n), scale(p + 1);
  for (double& r : root) r = random.unit();
  for (double& s : scale) s = std::ldexp(1.0, static_cast<int>(random.bits() % 9) - 4);
  std::vector<double> out((p + 1) * (p + 1), 7.0), rows(n * (p + 1));
  weighted_gram<double>(view, true, root.data(), scale.data(), out.data(), 2);
  for (index i = 0; i < n; ++i) {
    view.copy_scaled(i, i + 1, &root[i], &rows[i * (p + 1)], p);
    rows[i * (p + 1) + p] = root[i];
  }
  rounding_check check;
  for (index j = 0; j <= p; ++j)
    for (index l = j; l <= p; ++l) {
      long double want = 0, size = 0;
      for (index i = 0; i < n; ++i) {
        const long double term = static_cast<long double>(rows[i * (p + 1) + j]) * scale[j] *
                                 rows[i * (p + 1) + l] * scale[l];
        want += term;
        size += std::abs(term);
      }
      check.add(out[j * (p + 1) + l], want, size, 2 * n);
    }
  CHECK(check.worst() <= 1.0);
  std::vector<double> again((p + 1) * (p + 1), 7.0);
  weighted_gram<double>(view, true, root.data(), scale.data(), again.data(), 3);
  CHECK(same_bits(out, again));
}
