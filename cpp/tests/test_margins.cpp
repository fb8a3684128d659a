// A loss over runs of rows, at the level of SIMD that runs here, against extended precision.
#include <doctest/doctest.h>

#include "kernels/margins.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

struct rows {
  std::vector<double> z, y, c;
  index size() const { return static_cast<index>(z.size()); }
};

struct outcome {
  double value, slopes;
  std::vector<double> first, second;
};

outcome evaluate(const char* loss, const rows& r, bool weighted = true, double even = 0.5) {
  outcome out{0.0, 0.0, r.z, std::vector<double>(r.z.size())};
  const auto [value, slopes] =
      kernels::evaluate_margins(loss)(r.size(), out.first.data(), r.y.data(),
                                      weighted ? r.c.data() : nullptr, even, out.second.data());
  out.value = value, out.slopes = slopes;
  return out;
}

rows random_rows(index n, double spread, std::uint64_t seed) {
  random_source random(seed);
  rows r{random.vector(n), random.vector(n), random.vector(n)};
  for (double& z : r.z) z *= spread;
  for (double& y : r.y) y = y < 0 ? -1.0 : 1.0;
  for (double& c : r.c) c = std::abs(c);
  return r;
}

double ulps(double got, long double want) {
  if (got == static_cast<double>(want)) return 0.0;
  const int exponent = std::max(std::ilogb(want), -1022);
  return static_cast<double>(std::abs(got - want) / std::ldexp(1.0L, exponent - 52));
}

/// The logistic loss where nothing cancels, in extended precision.
struct exact_logistic {
  exact_logistic(double z, double y) {
    const long double m = static_cast<long double>(y) * z, e = std::exp(-std::abs(m));
    value = std::log1p(e) + (m < 0 ? -m : 0.0L);
    first = -y * (m < 0 ? 1.0L : e) / (1 + e);
    second = e / ((1 + e) * (1 + e));
  }
  long double value, first, second;
};

}  // namespace

TEST_CASE("the logistic loss row by row, in saturation too") {
  for (const double spread : {1e-10, 1.0, 10.0, 40.0, 760.0}) {
    rows r = random_rows(20003, spread, 3);
    std::fill(r.c.begin(), r.c.end(), 1.0);
    const outcome got = evaluate("logistic", r);
    double first = 0.0, second = 0.0;
    long double value = 0.0L;
    for (index i = 0; i < r.size(); ++i) {
      const exact_logistic want(r.z[i], r.y[i]);
      value += want.value;
      first = std::max(first, ulps(got.first[i], want.first));
      second = std::max(second, ulps(got.second[i], want.second));
    }
    CAPTURE(spread);
    CHECK(first <= 3.0);
    CHECK(second <= 4.0);
    rounding_check sum;
    sum.add(got.value, value, value, r.size());
    CHECK(sum.worst() <= 1.0);
  }
}

TEST_CASE("the value of one row is good to its last places") {
  const auto logistic = kernels::evaluate_margins("logistic");
  random_source random(5);
  for (const double spread : {1.0, 40.0, 760.0}) {
    double worst = 0.0;
    for (int i = 0; i < 20000; ++i) {
      const double at = spread * random.symmetric(), y = i % 2 ? -1.0 : 1.0;
      double z = at, second;
      const double value = logistic(1, &z, &y, nullptr, 1.0, &second).value;
      worst = std::max(worst, ulps(value, exact_logistic(at, y).value));
    }
    CAPTURE(spread);
    CHECK(worst <= 2.0);
  }
}

TEST_CASE("the squared loss") {
  const rows r = random_rows(101, 3.0, 4);
  const outcome got = evaluate("squared", r);
  long double value = 0.0L;
  for (index i = 0; i < r.size(); ++i) {
    CHECK(got.first[i] == r.c[i] * (r.z[i] - r.y[i]));
    CHECK(got.second[i] == r.c[i]);
    value += 0.5L * r.c[i] * (r.z[i] - r.y[i]) * (r.z[i] - r.y[i]);
  }
  rounding_check sum;
  sum.add(got.value, value, value, r.size());
  CHECK(sum.worst() <= 1.0);
}

TEST_CASE("sums of squares of what slopes are rounded to") {
  for (const char* loss : {"logistic", "squared", "poisson"}) {
    const rows r = random_rows(101, 3.0, 4);
    const outcome got = evaluate(loss, r);
    long double sum = 0.0L;
    for (index i = 0; i < r.size(); ++i) {
      const long double first = std::abs(got.first[i]) / r.c[i];
      // e^z − y has two terms, of which rounding sees the larger.
      const long double size = first + (loss[0] == 'p' ? got.second[i] / r.c[i] : 0.0L);
      sum += r.c[i] * size * size;
    }
    CHECK(got.slopes == doctest::Approx(static_cast<double>(sum)).epsilon(1e-13));
  }
}

TEST_CASE("a row gives the same bits in any run") {
  for (const char* loss : {"logistic", "squared", "poisson", "soft logistic"}) {
    const rows all = random_rows(64, 30.0, 6);
    const outcome want = evaluate(loss, all);
    for (index count = 0; count <= 20; ++count)
      for (index begin = 0; begin + count <= 40; begin += 5) {
        const auto part = [&](const std::vector<double>& v) {
          return std::vector<double>(v.begin() + begin, v.begin() + begin + count);
        };
        const outcome got = evaluate(loss, {part(all.z), part(all.y), part(all.c)});
        CHECK(same_bits(got.first, part(want.first)));
        CHECK(same_bits(got.second, part(want.second)));
      }
  }
}

TEST_CASE("a run of any length ends where it should") {
  for (const char* loss : {"logistic", "squared", "poisson"})
    for (index count = 0; count <= 33; ++count) {
      rows r = random_rows(count, 5.0, 8);
      rows longer = r;
      std::vector<double> second(r.z.size() + 16, 7.0);
      for (std::vector<double>* v : {&longer.z, &longer.y, &longer.c}) v->insert(v->end(), 16, 7.0);
      const auto [value, slopes] = kernels::evaluate_margins(loss)(
          count, longer.z.data(), longer.y.data(), longer.c.data(), 0.0, second.data());
      CHECK(value == evaluate(loss, r).value);
      CHECK(slopes == evaluate(loss, r).slopes);
      CHECK(
          std::all_of(longer.z.begin() + count, longer.z.end(), [](double v) { return v == 7.0; }));
      CHECK(std::all_of(second.begin() + count, second.end(), [](double v) { return v == 7.0; }));
      if (count == 0) CHECK(value == 0.0);
    }
}

TEST_CASE("even weights are weights that are all the same") {
  for (const char* loss : {"logistic", "squared", "poisson"}) {
    rows r = random_rows(37, 5.0, 9);
    std::fill(r.c.begin(), r.c.end(), 0.3);
    const outcome want = evaluate(loss, r), got = evaluate(loss, r, false, 0.3);
    CHECK(got.value == want.value);
    CHECK(same_bits(got.first, want.first));
    CHECK(same_bits(got.second, want.second));
  }
}

TEST_CASE("limits and NaN, each in its own row") {
  rows r = random_rows(24, 5.0, 10);
  std::fill(r.y.begin(), r.y.end(), 1.0);
  std::fill(r.c.begin(), r.c.end(), 1.0);
  const outcome before = evaluate("logistic", r);
  r.z[3] = inf, r.z[5] = 800.0, r.z[12] = -800.0;
  const outcome limits = evaluate("logistic", r);
  for (const index i : {3, 5}) {
    CHECK(limits.first[i] == 0.0);
    CHECK(limits.second[i] == 0.0);
  }
  CHECK(limits.first[12] == -1.0);
  CHECK(limits.second[12] == 0.0);
  CHECK(std::isfinite(limits.value));
  r.z[4] = -inf;
  const outcome infinite = evaluate("logistic", r);
  CHECK(infinite.value == inf);
  CHECK(infinite.first[4] == -1.0);
  CHECK(infinite.second[4] == 0.0);
  r.z[22] = nan;
  const outcome bad = evaluate("logistic", r);
  CHECK(std::isnan(bad.value));
  CHECK(std::isnan(bad.first[22]));
  CHECK(std::isnan(bad.second[22]));
  for (const index i : {0, 2, 6, 11, 13, 21, 23}) {
    CHECK(bad.first[i] == before.first[i]);
    CHECK(bad.second[i] == before.second[i]);
  }
}

TEST_CASE("an unknown loss is refused") {
  CHECK_THROWS_AS(kernels::evaluate_margins("hinge"), std::invalid_argument);
}

}  // namespace implicitgrad::testing
