// csr_matrix against plain loops over a dense copy: both ways through the data, both index types,
// both value types; and what check_csr says of arrays that do not fit.
#include <doctest/doctest.h>

#include <stdexcept>

#include "implicitgrad/csr_matrix.hpp"
#include "implicitgrad/fused_pass.hpp"
#include "implicitgrad/gram.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

/// Everything narrow, or everything wide with many blocks, its vectors interleaved or not.
constexpr index all = index{1} << 40;
constexpr csr_sizes narrow_sizes{all, all, 64, 64}, wide_sizes{0, all, 64, 64},
    separate_sizes{0, 0, 64, 64};

/// A random sparse matrix and its dense copy. Some rows and columns are empty, one row is full, and
/// some entries that are stored are zero.
template <class T, class I>
struct sparse_case {
  sparse_case(index rows, index cols, double density, std::uint64_t seed)
      : n(rows), p(cols), dense(static_cast<std::size_t>(rows * cols)), indptr{0} {
    random_source random(seed);
    for (index i = 0; i < n; ++i) {
      for (index j = 0; j < p; ++j) {
        const bool in = i == n / 2 || (i % 7 != 3 && j % 5 != 4 && random.unit() < density);
        if (!in) continue;
        indices.push_back(static_cast<I>(j));
        data.push_back(random.unit() < 0.05 ? T{0} : static_cast<T>(random.symmetric()));
        dense[i * p + j] = static_cast<double>(data.back());
      }
      indptr.push_back(static_cast<I>(indices.size()));
    }
  }
  csr_matrix<T, I> view(csr_sizes sizes) const {
    return {indptr.data(), indices.data(), data.data(), n, p, sizes};
  }
  long double entry(index i, index j) const { return j == p ? 1.0L : dense[i * p + j]; }

  index n, p;
  std::vector<double> dense;
  std::vector<I> indptr, indices;
  std::vector<T> data;
};

template <class T, class I>
void for_all(auto&& body) {
  struct shape {
    index n, p;
    double density;
  };
  for (const shape s : {shape{1, 1, 1},
                        {1, 40, 0.5},
                        {40, 1, 0.5},
                        {97, 31, 0.2},
                        {311, 203, 0.05},
                        {50, 900, 0.02},
                        {30, 20, 0.0}}) {
    const sparse_case<T, I> x(s.n, s.p, s.density, 17);
    for (const csr_sizes& sizes : {narrow_sizes, wide_sizes, separate_sizes, csr_sizes{}}) {
      CAPTURE(s.n);
      CAPTURE(s.p);
      CAPTURE(sizes.narrow_words);
      body(x, x.view(sizes));
    }
  }
}

}  // namespace

#define ALL_TYPES                                                   \
  std::pair<double, std::int32_t>, std::pair<double, std::int64_t>, \
      std::pair<float, std::int32_t>, std::pair<float, std::int64_t>

TEST_CASE_TEMPLATE("the fused product, at any number of vectors and threads", P, ALL_TYPES) {
  for_all<typename P::first_type, typename P::second_type>([](const auto& x, const auto& view) {
    random_source random(3);
    const std::vector<double> d = random.vector(x.n);
    for (const bool intercept : {false, true})
      for (const index k : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17}) {
        const index size = x.p + (intercept ? 1 : 0);
        const std::vector<double> v = random.vector(size * k);
        std::vector<double> out(v.size(), nan);
        sandwich(view, intercept, as_block(d, x.n), 1, as_block(v, size), as_block(out, size), 1);
        rounding_check check;
        for (index c = 0; c < k; ++c) {
          std::vector<long double> want(size), scale(size);
          for (index i = 0; i < x.n; ++i) {
            long double z = 0, z_scale = 0;
            for (index j = 0; j < size; ++j) {
              z += x.entry(i, j) * v[c * size + j];
              z_scale += std::abs(x.entry(i, j) * v[c * size + j]);
            }
            for (index j = 0; j < size; ++j) {
              want[j] += x.entry(i, j) * z * d[i];
              scale[j] += std::abs(x.entry(i, j) * d[i]) * z_scale;
            }
          }
          for (index j = 0; j < size; ++j)
            check.add(out[c * size + j], want[j], scale[j], x.n + x.p);
        }
        CAPTURE(k);
        CHECK(check.worst() <= 1.0);
        for (const int threads : {1, 2, 3}) {
          std::vector<double> again(v.size(), nan);
          sandwich(view, intercept, as_block(d, x.n), 1, as_block(v, size), as_block(again, size),
                   threads);
          CAPTURE(threads);
          CHECK(same_bits(out, again));
        }
      }
  });
}

TEST_CASE_TEMPLATE("squares, scaled copies and panels", P, ALL_TYPES) {
  for_all<typename P::first_type, typename P::second_type>([](const auto& x, const auto& view) {
    random_source random(4);
    const std::vector<double> d = random.vector(x.n);
    for (const bool intercept : {false, true}) {
      const index size = x.p + (intercept ? 1 : 0);
      std::vector<double> squares(size, nan);
      weighted_squares(view, intercept, column(d), column(squares), 1);
      rounding_check check;
      for (index j = 0; j < size; ++j) {
        long double want = 0, scale = 0;
        for (index i = 0; i < x.n; ++i) {
          const long double term = x.entry(i, j) * x.entry(i, j) * d[i];
          want += term, scale += std::abs(term);
        }
        check.add(squares[j], want, scale, 3 * x.n);
      }
      CHECK(check.worst() <= 1.0);
      for (const int threads : {2, 3}) {
        std::vector<double> again(size, nan);
        weighted_squares(view, intercept, column(d), column(again), threads);
        CHECK(same_bits(squares, again));
      }
    }
    const index begin = x.n / 3, end = x.n;
    std::vector<double> rows(end - begin, nan), copy((end - begin) * x.p, nan);
    view.row_squares(begin, end, rows.data());
    view.copy_scaled(begin, end, d.data() + begin, copy.data(), x.p);
    rounding_check check;
    bool exact = true;
    for (index i = begin; i < end; ++i) {
      long double want = 0;
      for (index j = 0; j < x.p; ++j) {
        want += x.entry(i, j) * x.entry(i, j);
        exact = exact && copy[(i - begin) * x.p + j] == d[i] * x.dense[i * x.p + j];
      }
      check.add(rows[i - begin], want, want, 2 * x.p);
    }
    CHECK(check.worst() <= 1.0);
    CHECK(exact);
  });
}

TEST_CASE_TEMPLATE("the Gram matrix, by outer products and by tiles", P, ALL_TYPES) {
  for (const double density : {0.01, 0.6}) {
    const sparse_case<typename P::first_type, typename P::second_type> x(601, 203, density, 5);
    for (const csr_sizes& sizes : {narrow_sizes, wide_sizes})
      for (const bool intercept : {false, true}) {
        const auto view = x.view(sizes);
        const index size = x.p + (intercept ? 1 : 0);
        random_source random(6);
        std::vector<double> d(x.n), gram(size * size, 7.0);
        for (double& w : d) w = random.unit();
        std::vector<double> root, ones(size, 1.0);
        for (const double w : d) root.push_back(std::sqrt(w));
        weighted_gram<double>(view, intercept, root.data(), ones.data(), gram.data(), 1);
        rounding_check check;
        bool upper_untouched = true;
        for (index j = 0; j < size; ++j)
          for (index l = 0; l < size; ++l) {
            if (l < j) {
              upper_untouched = upper_untouched && gram[j * size + l] == 7.0;
              continue;
            }
            long double want = 0, scale = 0;
            for (index i = 0; i < x.n; ++i) {
              const long double term = d[i] * x.entry(i, j) * x.entry(i, l);
              want += term, scale += std::abs(term);
            }
            check.add(gram[j * size + l], want, scale, 2 * x.n);
          }
        CHECK(check.worst() <= 1.0);
        CHECK(upper_untouched);
        for (const int threads : {2, 3}) {
          std::vector<double> again(size * size, 7.0);
          weighted_gram<double>(view, intercept, root.data(), ones.data(), again.data(), threads);
          CHECK(same_bits(gram, again));
        }
      }
  }
}

TEST_CASE("a value that is not finite is seen") {
  sparse_case<double, std::int32_t> x(97, 31, 0.2, 8);
  CHECK(all_finite(x.view(wide_sizes), 2));
  for (const double bad : {nan, inf, -inf})
    for (const std::size_t e : {std::size_t{0}, x.data.size() / 2, x.data.size() - 1}) {
      const double good = x.data[e];
      x.data[e] = bad;
      CHECK_FALSE(all_finite(x.view(wide_sizes), 2));
      CHECK_FALSE(all_finite(x.view(narrow_sizes), 1));
      x.data[e] = good;
    }
}

TEST_CASE("row blocks cover the rows once and hold about equally many entries") {
  const sparse_case<double, std::int32_t> x(5003, 40, 0.2, 9);
  for (const csr_sizes& sizes : {narrow_sizes, csr_sizes{0, 0, 64, 640}}) {
    const auto view = x.view(sizes);
    const row_blocks blocks = view.blocks(1);
    CHECK(blocks.count() > 3);
    CHECK(blocks.begin(0) == 0);
    CHECK(blocks.end(blocks.count() - 1) == x.n);
    const index share = (view.entries() + 4 * x.n) / blocks.count();
    for (index b = 0; b < blocks.count(); ++b) {
      if (b > 0) CHECK(blocks.begin(b) == blocks.end(b - 1));
      CHECK(blocks.begin(b) < blocks.end(b));
      CHECK(x.indptr[blocks.end(b)] - x.indptr[blocks.begin(b)] < share + 64);
    }
  }
}

TEST_CASE("the transposed matrix has the entries of X") {
  for_all<float, std::int32_t>([](const auto& at, const auto& x) {
    const Matrix& columns = *x.transposed();
    REQUIRE(columns.rows() == at.p);
    REQUIRE(columns.cols() == at.n);
    CHECK(x.transposed() == &columns);
    CHECK(x.outer_column_terms() == columns.outer_product_terms());
    std::vector<double> row(static_cast<std::size_t>(at.n));
    const double one = 1.0;
    for (index j = 0; j < at.p; ++j) {
      columns.copy_scaled(j, j + 1, &one, row.data(), at.n);
      for (index i = 0; i < at.n; ++i) CHECK(row[i] == at.dense[i * at.p + j]);
    }
  });
}

TEST_CASE_TEMPLATE("check_csr finds what does not fit", I, std::int32_t, std::int64_t) {
  const std::vector<I> starts{0, 2, 2, 5}, columns{0, 3, 1, 2, 3};
  const auto verdict = [&](std::vector<I> indptr, std::vector<I> indices, index available = 5) {
    return check_csr(indptr.data(), indices.data(), 3, 4, available, 2);
  };
  const auto put = [](std::vector<I> a, std::size_t at, I value) {
    a[at] = value;
    return a;
  };
  CHECK(verdict(starts, columns).fault == csr_fault::none);
  CHECK(verdict(put(starts, 0, 1), columns).fault == csr_fault::start);
  CHECK(verdict(put(starts, 0, -1), columns).fault == csr_fault::start);
  CHECK(verdict(put(starts, 1, 3), columns).fault == csr_fault::decreasing);
  CHECK(verdict(put(starts, 1, 3), columns).at == 1);
  CHECK(verdict(put(starts, 1, -3), columns).at == 0);
  CHECK(verdict(starts, columns, 4).fault == csr_fault::too_long);
  const I most = std::numeric_limits<I>::max(), least = std::numeric_limits<I>::min();
  CHECK(verdict(put(starts, 3, most), columns).fault == csr_fault::too_long);
  for (const I bad : {I{4}, I{-1}, most, least}) {
    CHECK(verdict(starts, put(columns, 4, bad)).fault == csr_fault::out_of_range);
    CHECK(verdict(starts, put(columns, 4, bad)).at == 4);
  }
  CHECK(verdict(starts, put(columns, 1, 0)).fault == csr_fault::not_canonical);
  CHECK(verdict(starts, put(columns, 4, 0)).fault == csr_fault::not_canonical);
  CHECK(verdict(put(starts, 3, 3), columns).fault == csr_fault::none);  // longer than need be
}

TEST_CASE("the constructor refuses an empty matrix") {
  const std::int32_t zero[2] = {};
  using matrix = csr_matrix<double, std::int32_t>;
  CHECK_THROWS_AS(matrix(zero, zero, nullptr, 0, 1), std::invalid_argument);
  CHECK_THROWS_AS(matrix(zero, zero, nullptr, 1, 0), std::invalid_argument);
}

}  // namespace implicitgrad::testing
