// Every verb of dense_matrix against a plain loop in extended precision.
#include <doctest/doctest.h>

#include <stdexcept>

#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/multiversion.hpp"
#include "implicitgrad/runtime.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

struct shape {
  index n, p;
};

constexpr shape shapes[] = {{597, 43}, {1, 1},    {3, 1},    {1, 3},
                            {7, 9},    {5, 1000}, {1000, 3}, {4097, 17}};
constexpr layout layouts[] = {layout::row_major, layout::column_major};
constexpr index widths[] = {1, 2, 3, 5};

/// Panels to try: all rows, and one that starts and ends in the middle.
std::vector<std::pair<index, index>> panels(index n) {
  std::vector<std::pair<index, index>> result{{0, n}};
  if (n > 2) result.emplace_back(n / 3, n - n / 5 - 1);
  return result;
}

/// k columns `gap` entries further apart than their length, the gaps filled with NaN.
struct columns {
  columns(index length, index k, index gap, random_source& random)
      : ld(length + gap), data(static_cast<std::size_t>(ld * k), nan) {
    for (index c = 0; c < k; ++c)
      for (index i = 0; i < length; ++i) data[c * ld + i] = random.symmetric();
  }
  double* col(index c) { return data.data() + c * ld; }
  bool gaps_untouched(index length) const {
    for (std::size_t i = 0; i < data.size(); ++i)
      if (static_cast<index>(i) % ld >= length && !std::isnan(data[i])) return false;
    return true;
  }

  index ld;
  std::vector<double> data;
};

template <class Body>
void for_all_matrices(Body&& body) {
  for (const shape s : shapes)
    for (const layout order : layouts)
      for (const index padding : {0, 3}) {
        const std::string name = describe(s.n, s.p, order, padding);
        CAPTURE(name);
        body(stored_matrix<double>(s.n, s.p, order, padding, 1));
        body(stored_matrix<float>(s.n, s.p, order, padding, 2));
      }
}

}  // namespace

TEST_CASE("dot is X[begin:end] V") {
  for_all_matrices([](const auto& x) {
    const auto view = x.view();
    random_source random(3);
    for (const index k : widths)
      for (const auto& [begin, end] : panels(x.rows)) {
        const index rows = end - begin;
        columns v(x.cols, k, 2, random), z(rows, k, 1, random);
        view.dot(begin, end, v.col(0), v.ld, k, z.col(0), z.ld);
        rounding_check check;
        for (index c = 0; c < k; ++c)
          for (index i = 0; i < rows; ++i) {
            long double want = 0, scale = 0;
            for (index j = 0; j < x.cols; ++j) {
              const long double term = x.entry(begin + i, j) * v.col(c)[j];
              want += term, scale += std::abs(term);
            }
            check.add(z.col(c)[i], want, scale, x.cols);
          }
        CAPTURE(k);
        CAPTURE(begin);
        CHECK(check.worst() <= 1.0);
        CHECK(z.gaps_untouched(rows));
      }
  });
}

TEST_CASE("accumulate adds X[begin:end]^T W") {
  for_all_matrices([](const auto& x) {
    const auto view = x.view();
    random_source random(4);
    for (const index k : widths)
      for (const auto& [begin, end] : panels(x.rows)) {
        const index rows = end - begin;
        columns w(rows, k, 1, random), out(x.cols, k, 2, random);
        const std::vector<double> before = out.data;
        view.accumulate(begin, end, w.col(0), w.ld, k, out.col(0), out.ld);
        rounding_check check;
        for (index c = 0; c < k; ++c)
          for (index j = 0; j < x.cols; ++j) {
            long double want = before[c * out.ld + j], scale = std::abs(want);
            for (index i = 0; i < rows; ++i) {
              const long double term = x.entry(begin + i, j) * w.col(c)[i];
              want += term, scale += std::abs(term);
            }
            check.add(out.col(c)[j], want, scale, rows);
          }
        CAPTURE(k);
        CAPTURE(begin);
        CHECK(check.worst() <= 1.0);
        CHECK(out.gaps_untouched(x.cols));
      }
  });
}

TEST_CASE("accumulate_squares adds the weighted squares of the columns") {
  for_all_matrices([](const auto& x) {
    const auto view = x.view();
    random_source random(5);
    for (const auto& [begin, end] : panels(x.rows)) {
      const index rows = end - begin;
      columns w(rows, 1, 0, random), out(x.cols, 1, 0, random);
      const std::vector<double> before = out.data;
      view.accumulate_squares(begin, end, w.col(0), out.col(0));
      rounding_check check;
      for (index j = 0; j < x.cols; ++j) {
        long double want = before[j], scale = std::abs(want);
        for (index i = 0; i < rows; ++i) {
          const long double term = x.entry(begin + i, j) * x.entry(begin + i, j) * w.col(0)[i];
          want += term, scale += std::abs(term);
        }
        check.add(out.col(0)[j], want, scale, 3 * rows);
      }
      CHECK(check.worst() <= 1.0);
    }
  });
}

TEST_CASE("row_squares are the squared norms of the rows") {
  for_all_matrices([](const auto& x) {
    for (const auto& [begin, end] : panels(x.rows)) {
      std::vector<double> out(static_cast<std::size_t>(end - begin), nan);
      x.view().row_squares(begin, end, out.data());
      rounding_check check;
      for (index i = begin; i < end; ++i) {
        long double want = 0;
        for (index j = 0; j < x.cols; ++j) want += x.entry(i, j) * x.entry(i, j);
        check.add(out[i - begin], want, want, 2 * x.cols);
      }
      CHECK(check.worst() <= 1.0);
    }
  });
}

TEST_CASE("copy_scaled writes scaled rows, row-major") {
  for_all_matrices([](const auto& x) {
    const auto view = x.view();
    random_source random(6);
    for (const auto& [begin, end] : panels(x.rows)) {
      const index rows = end - begin;
      columns scale(rows, 1, 0, random), out(x.cols, rows, 2, random);
      view.copy_scaled(begin, end, scale.col(0), out.col(0), out.ld);
      bool exact = true;
      for (index i = 0; i < rows; ++i)
        for (index j = 0; j < x.cols; ++j)
          exact =
              exact && out.col(i)[j] == scale.col(0)[i] * static_cast<double>(x.at(begin + i, j));
      CHECK(exact);
      CHECK(out.gaps_untouched(x.cols));
    }
  });
}

TEST_CASE("finite sees every entry of the panel and nothing else") {
  for_all_matrices([](auto x) {
    CHECK(x.view().finite(0, x.rows));
    for (const double bad : {nan, inf, -inf})
      for (const index i : {index{0}, x.rows / 2, x.rows - 1})
        for (const index j : {index{0}, x.cols / 2, x.cols - 1}) {
          const auto good = x.at(i, j);
          x.at(i, j) = static_cast<decltype(good + good)>(bad);
          CHECK_FALSE(x.view().finite(0, x.rows));
          CHECK_FALSE(x.view().finite(i, i + 1));
          if (i > 0) CHECK(x.view().finite(0, i));
          if (i + 1 < x.rows) CHECK(x.view().finite(i + 1, x.rows));
          x.at(i, j) = good;
        }
    // The largest and the smallest numbers are finite, whatever their sum is.
    using T = std::decay_t<decltype(x.at(0, 0))>;
    for (index j = 0; j < x.cols; ++j) x.at(0, j) = std::numeric_limits<T>::max();
    x.at(x.rows - 1, 0) = std::numeric_limits<T>::denorm_min();
    CHECK(x.view().finite(0, x.rows));
  });
}

TEST_CASE("all_finite at any number of threads") {
  stored_matrix<double> x(4097, 17, layout::column_major, 1, 7);
  for (const int threads : {1, 2, 3}) {
    CHECK(all_finite(x.view(), threads));
    x.at(4096, 16) = nan;
    CHECK_FALSE(all_finite(x.view(), threads));
    x.at(4096, 16) = 0.0;
  }
}

TEST_CASE("a panel has at least one row and the constructor refuses nonsense") {
  for_all_matrices([](const auto& x) { CHECK(x.view().panel_rows() >= 1); });
  const double entries[6] = {};
  using matrix = dense_matrix<double>;
  CHECK_THROWS_AS(matrix(entries, 0, 1, 1, layout::row_major), std::invalid_argument);
  CHECK_THROWS_AS(matrix(entries, 1, 0, 1, layout::row_major), std::invalid_argument);
  CHECK_THROWS_AS(matrix(entries, 2, 3, 2, layout::row_major), std::invalid_argument);
  CHECK_THROWS_AS(matrix(entries, 3, 2, 2, layout::column_major), std::invalid_argument);
  CHECK_NOTHROW(matrix(entries, 3, 2, 2, layout::row_major));
}

#ifdef IMPLICITGRAD_MULTIVERSION
TEST_CASE("the kernels' clone is reported by name") {
  const std::string level = simd_level();
  CHECK((level == "x86-64-v4" || level == "x86-64-v3" || level == "baseline"));
}
#endif

}  // namespace implicitgrad::testing
