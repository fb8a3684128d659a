#include <doctest/doctest.h>

#include <memory>
#include <numeric>

#include "implicitgrad/cost_model.hpp"
#include "implicitgrad/csr_matrix.hpp"
#include "implicitgrad/row_subset.hpp"
#include "implicitgrad/solvers/dual_sketch.hpp"
#include "implicitgrad/solvers/row_sketch.hpp"
#include "support.hpp"

using namespace implicitgrad;
using namespace implicitgrad::testing;

namespace {

/// The Hessian that a sketch of all rows stands for, applied naively.
std::vector<double> product(const Matrix& x, bool intercept, const std::vector<double>& d,
                            const std::vector<double>& strength, const std::vector<double>& v) {
  const index n = x.rows(), p = x.cols(), q = p + (intercept ? 1 : 0);
  std::vector<double> out(static_cast<std::size_t>(q)), row(static_cast<std::size_t>(q), 1.0);
  const double one = 1.0;
  for (index i = 0; i < n; ++i) {
    x.copy_scaled(i, i + 1, &one, row.data(), p);
    double z = 0.0;
    for (index j = 0; j < q; ++j) z += row[j] * v[j];
    for (index j = 0; j < q; ++j) out[j] += d[i] * z * row[j];
  }
  for (index j = 0; j < p; ++j) out[j] += strength[j] * v[j];
  return out;
}

double relative_error(const std::vector<double>& got, const std::vector<double>& want) {
  double error = 0.0, size = 0.0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    error += (got[i] - want[i]) * (got[i] - want[i]);
    size += want[i] * want[i];
  }
  return std::sqrt(error / size);
}

struct problem {
  problem(index n, index p, bool with_intercept, layout order)
      : x(n, p, order, 1, static_cast<std::uint64_t>(n + p)), intercept(with_intercept) {
    random_source random(3);
    for (index i = 0; i < n; ++i) d.push_back((0.1 + random.unit()) / static_cast<double>(n));
    for (index j = 0; j < p; ++j) strength.push_back(0.01 + random.unit());
  }
  stored_matrix<double> x;
  bool intercept;
  std::vector<double> d, strength;
};

}  // namespace

TEST_CASE("all rows: the inverse of H to single precision, primal and dual") {
  for (const auto& [n, p] : {std::pair<index, index>{90, 31}, {31, 90}, {1, 5}, {40, 40}, {7, 1}})
    for (const bool intercept : {false, true})
      for (const layout order : {layout::row_major, layout::column_major}) {
        CAPTURE(n);
        CAPTURE(p);
        CAPTURE(intercept);
        const problem at(n, p, intercept, order);
        using view_type = std::decay_t<decltype(at.x.view())>;
        const auto view = std::make_shared<view_type>(at.x.view());
        const auto made = make_sketch(view, intercept, {at.d.data(), n, 1}, 1, n, 0, 2);
        HessianSketch& sketch = *made;
        sketch.factor(at.strength);
        CHECK(sketch.exact());
        random_source random(4);
        const std::vector<double> v = random.vector(sketch.size());
        const std::vector<double> b = product(*view, intercept, at.d, at.strength, v);
        std::vector<double> x(v.size());
        sketch.apply(as_block(b, sketch.size()), as_block(x, sketch.size()));
        // In the dual the intercept has a strength that H has not.
        if (!(intercept && n < sketch.size())) CHECK(relative_error(x, v) <= 1e-4);
        for (const double entry : x) CHECK(std::isfinite(entry));
        // A block is its columns.
        std::vector<double> two(b), both(2 * b.size());
        two.insert(two.end(), v.begin(), v.end());
        sketch.apply(as_block(two, sketch.size()), as_block(both, sketch.size()));
        CHECK(relative_error({both.begin(), both.begin() + sketch.size()}, x) <= 1e-14);
      }
}

TEST_CASE("few entries: the dual by columns, in double precision") {
  constexpr index n = 31, p = 400;
  random_source random(8);
  std::vector<index> indptr{0}, indices;
  std::vector<double> data, d, strength;
  for (index i = 0; i < n; ++i) {
    for (index j = 0; j < p; ++j)
      if (random.unit() < 0.1) indices.push_back(j), data.push_back(random.symmetric());
    indptr.push_back(static_cast<index>(indices.size()));
    d.push_back(i % 5 == 4 ? 0.0 : 1e5 * random.unit());
  }
  for (index j = 0; j < p; ++j) strength.push_back(1e-3 * (0.01 + random.unit()));
  const auto x =
      std::make_shared<csr_matrix<double, index>>(indptr.data(), indices.data(), data.data(), n, p);
  CHECK(cost::by_outer_columns(shape_of(*x, p, 1, 1)));
  dual_sketch sketch(x, false, {d.data(), n, 1}, 1, n, 0, 2);
  sketch.factor(strength);
  const std::vector<double> v = random.vector(p), b = product(*x, false, d, strength, v);
  std::vector<double> got(v.size());
  sketch.apply(as_block(b, p), as_block(got, p));
  // The condition is above 1e9: beyond single precision.
  CHECK(relative_error(got, v) <= 1e-5);

  // The intercept as one more column, of a strength that H has not: the sum of d.
  dual_sketch with(x, true, {d.data(), n, 1}, 1, n, 0, 2);
  with.factor(strength);
  const double own = std::accumulate(d.begin(), d.end(), 0.0);
  std::vector<double> w = random.vector(p + 1);
  std::vector<double> c = product(*x, true, d, strength, w), back(w.size());
  c[p] += own * w[p];
  with.apply(as_block(c, p + 1), as_block(back, p + 1));
  CHECK(relative_error(back, w) <= 1e-5);
}

TEST_CASE("folds and targets: each column by the D of its own fold, in the dual") {
  constexpr index n = 30, p = 71, folds = 3, targets = 2, copies = 2;
  const problem at(n, p, false, layout::row_major);
  using view_type = std::decay_t<decltype(at.x.view())>;
  const auto view = std::make_shared<view_type>(at.x.view());
  std::vector<double> d;
  for (index f = 0; f < folds; ++f)
    for (index i = 0; i < n; ++i) d.push_back(i % folds == f ? 0.0 : at.d[i]);
  const auto sketch = make_sketch(view, false, {d.data(), n, folds}, targets, n, 0, 2);
  sketch->factor(at.strength);
  constexpr index columns = folds * targets * copies;
  random_source random(9);
  const std::vector<double> v = random.vector(p * columns);
  std::vector<double> b, got(v.size());
  for (index c = 0; c < columns; ++c) {
    const index f = c / targets % folds;
    const std::vector<double> of_fold(d.begin() + f * n, d.begin() + (f + 1) * n);
    const auto column =
        product(*view, false, of_fold, at.strength, {v.begin() + c * p, v.begin() + (c + 1) * p});
    b.insert(b.end(), column.begin(), column.end());
  }
  sketch->apply(as_block(b, p), as_block(got, p));
  CHECK(relative_error(got, v) <= 1e-5);
  const auto twin = sketch->copy();
  std::vector<double> again(v.size());
  twin->apply(as_block(b, p), as_block(again, p));
  CHECK(again == got);
}

TEST_CASE("new strengths: refactored as if built anew") {
  for (const index n : {60, 12}) {
    const problem at(n, 25, false, layout::row_major);
    using view_type = std::decay_t<decltype(at.x.view())>;
    const auto view = std::make_shared<view_type>(at.x.view());
    const auto make = [&] { return make_sketch(view, false, {at.d.data(), n, 1}, 1, n, 0, 1); };
    const auto kept = make(), fresh = make();
    kept->factor(std::vector<double>(25, 1e-9));  // far beyond single precision in the dual
    kept->factor(at.strength);
    fresh->factor(at.strength);
    random_source random(5);
    const std::vector<double> v = random.vector(25);
    std::vector<double> a(25), b(25);
    kept->apply(as_block(v, 25), as_block(a, 25));
    fresh->apply(as_block(v, 25), as_block(b, 25));
    CHECK(relative_error(a, b) <= 1e-5);
  }
}

TEST_CASE("extreme scales, zero weights and NaN leave a finite positive map") {
  for (const index n : {50, 7}) {
    const problem at(n, 12, true, layout::row_major);
    using view_type = std::decay_t<decltype(at.x.view())>;
    const auto view = std::make_shared<view_type>(at.x.view());
    random_source random(6);
    const std::vector<double> v = random.vector(13);
    for (const double weight : {0.0, 1e-300, 1e300, testing::nan})
      for (const double strength : {1e-300, 1e-12, 1e300}) {
        // In the dual v and Aᵀz cancel then: CG finds that out, and takes the diagonal.
        if (n == 7 && !(weight <= 1e-300)) continue;
        CAPTURE(n);
        CAPTURE(weight);
        CAPTURE(strength);
        const std::vector<double> d(static_cast<std::size_t>(n), weight);
        const auto sketch = make_sketch(view, true, {d.data(), n, 1}, 1, n, 0, 1);
        sketch->factor(std::vector<double>(12, strength));
        std::vector<double> x(13);
        sketch->apply(as_block(v, 13), as_block(x, 13));
        double along = 0.0;
        for (index i = 0; i < 13; ++i) along += x[i] * v[i];
        CHECK(along >= 0.0);
      }
  }
}

TEST_CASE("a sample of rows: in order, the same for a seed, right on average, fair to heavy rows") {
  for (const index n : {1, 2, 10, 1000}) {
    random_source random(static_cast<std::uint64_t>(n));
    std::vector<double> d;
    for (index i = 0; i < n; ++i) d.push_back(std::pow(random.unit(), 8.0));
    d[n / 2] = 50.0;
    for (const index m : {index{1}, (n + 1) / 2, n}) {
      CAPTURE(n);
      CAPTURE(m);
      const row_sample sample = stratified_rows(d.data(), n, m, 7);
      CHECK(static_cast<index>(sample.rows.size()) <= m);
      CHECK(std::is_sorted(sample.rows.begin(), sample.rows.end()));
      CHECK(std::adjacent_find(sample.rows.begin(), sample.rows.end()) == sample.rows.end());
      CHECK(sample.rows == stratified_rows(d.data(), n, m, 7).rows);
      if (m == n) CHECK(sample.share == std::vector<double>(n, 1.0));
    }
  }
  const index n = 1000, m = 100;
  std::vector<double> d(n, 1e-3), a;
  d[137] = 20.0;
  random_source random(8);
  for (index i = 0; i < n; ++i) a.push_back(random.unit());
  double want = 0.0, mean = 0.0;
  for (index i = 0; i < n; ++i) want += a[i];
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const row_sample sample = stratified_rows(d.data(), n, m, seed);
    CHECK(std::find(sample.rows.begin(), sample.rows.end(), 137) != sample.rows.end());
    for (std::size_t s = 0; s < sample.rows.size(); ++s)
      mean += sample.share[s] * a[sample.rows[s]] / 200.0;
  }
  CHECK(std::abs(mean - want) <= 0.03 * want);
  CHECK(stratified_rows(d.data(), n, m, 1).rows != stratified_rows(d.data(), n, m, 2).rows);
  for (const double bad : {0.0, testing::nan, testing::inf}) {
    d[5] = bad == 0.0 ? d[5] : bad;
    CHECK(!stratified_rows(std::vector<double>(n, bad).data(), n, m, 1).rows.empty());
  }
}

TEST_CASE("a subset of rows does what those rows do") {
  const stored_matrix<float> x(40, 9, layout::column_major, 2, 8);
  using view_type = std::decay_t<decltype(x.view())>;
  const auto view = std::make_shared<view_type>(x.view());
  const std::vector<index> chosen{0, 1, 2, 7, 8, 20, 39};
  const row_subset subset(view, chosen);
  random_source random(9);
  const std::vector<double> v = random.vector(9 * 2), w = random.vector(7 * 2);
  std::vector<double> z(14), squares(9), norms(7), rows(63), out(18), one(1), row(9);
  subset.dot(0, 7, v.data(), 9, 2, z.data(), 7);
  subset.accumulate(0, 7, w.data(), 7, 2, out.data(), 9);
  subset.accumulate_squares(0, 7, w.data(), squares.data());
  subset.row_squares(0, 7, norms.data());
  subset.copy_scaled(0, 7, w.data(), rows.data(), 9);
  CHECK(subset.finite(0, 7));
  std::vector<double> want_out(18), want_squares(9);
  for (index s = 0; s < 7; ++s) {
    const double unit = 1.0;
    view->copy_scaled(chosen[s], chosen[s] + 1, &unit, row.data(), 9);
    double norm = 0.0;
    for (index j = 0; j < 9; ++j) {
      norm += row[j] * row[j];
      want_squares[j] += w[s] * row[j] * row[j];
      CHECK(rows[s * 9 + j] == w[s] * row[j]);
      for (index c = 0; c < 2; ++c) want_out[c * 9 + j] += w[c * 7 + s] * row[j];
    }
    CHECK(norms[s] == doctest::Approx(norm).epsilon(1e-14));
    for (index c = 0; c < 2; ++c) {
      double sum = 0.0;
      for (index j = 0; j < 9; ++j) sum += row[j] * v[c * 9 + j];
      CHECK(z[c * 7 + s] == doctest::Approx(sum).epsilon(1e-13));
    }
  }
  for (index j = 0; j < 9; ++j)
    CHECK(squares[j] == doctest::Approx(want_squares[j]).epsilon(1e-12));
  for (index j = 0; j < 18; ++j) CHECK(out[j] == doctest::Approx(want_out[j]).epsilon(1e-12));
}
