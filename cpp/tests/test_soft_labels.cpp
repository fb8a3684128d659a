// Distributions over the classes in the place of labels: the kernel and the data term, against the
// definition and against those of labels.
#include <doctest/doctest.h>

#include "kernels/softmax.hpp"
#include "softmax_cases.hpp"

namespace implicitgrad::testing {

TEST_CASE("rows of distributions, relative to each of their terms, and labels as such") {
  for (const double spread : {1e-8, 1.0, 30.0})
    for (const index k : {2, 3, 10})
      for (const index n : {1, 7, 65, 200}) {
        CAPTURE(spread);
        CAPTURE(k);
        random_source random(static_cast<std::uint64_t>(n + k));
        std::vector<double> z(static_cast<std::size_t>(n * k)), y(z.size()), labels, c, values;
        for (double& each : z) each = spread * random.symmetric();
        c = random.vector(n), values.resize(c.size());
        for (index i = 0; i < n; ++i) {
          const index label = i % k;
          double sum = 0.0;
          for (index a = 0; a < k; ++a) {
            y[i * k + a] = i % 2 ? random.unit() : static_cast<double>(a == label);
            sum += y[i * k + a];
          }
          for (index a = 0; a < k; ++a) y[i * k + a] /= sum;
          labels.push_back(static_cast<double>(label));
        }
        std::vector<double> got = z, as_labels = z, p(z.size()), q(z.size()), slopes(k);
        const double total =
            kernels::evaluate_softmax({n, k, got.data(), n, n, c.data(), nan}, {y.data(), true},
                                      p.data(), slopes.data(), values.data());
        kernels::evaluate_softmax({n, k, as_labels.data(), n, n, c.data(), nan}, {labels.data()},
                                  q.data(), nullptr);
        CHECK(same_bits(p, q));
        double worst = 0.0, sum = 0.0;
        for (index i = 0; i < n; ++i) {
          std::vector<double> margins;
          for (index a = 0; a < k; ++a) margins.push_back(z[a * n + i]);
          real value = 0, scale = 0;
          for (index a = 0; a < k; ++a) {
            const exact_softmax of_class(margins, a);
            const real t = y[i * k + a], up = of_class.p[a] * (1 - t),
                       down = t * -of_class.first[a];
            value += t * of_class.value, scale += t * (of_class.value + std::abs(margins[a]));
            const real size = std::abs(c[i]) * (up + down);
            const real off = std::abs(got[a * n + i] - c[i] * (up - down));
            const real allowed = 8 * DBL_EPSILON * (static_cast<real>(k) + 2 * spread);
            worst = std::max(worst, static_cast<double>(off / (allowed * size + 8 * DBL_MIN)));
            if (i % 2 == 0)  // as exact as that of the label
              CHECK(got[a * n + i] == doctest::Approx(as_labels[a * n + i]).epsilon(1e-14));
          }
          CHECK(std::abs(values[i] - value) <= 8 * DBL_EPSILON * static_cast<real>(k) * scale);
          sum += c[i] * values[i];
        }
        CHECK(worst <= 1.0);
        CHECK(total == doctest::Approx(sum).epsilon(1e-12));
      }
}

TEST_CASE("the data term of distributions is that of labels where they are certain") {
  for (const bool intercept : {false, true})
    for (const index folds : {1, 3}) {
      model labels(61, 5, 4, intercept, layout::column_major, folds), shares = labels;
      shares.y.assign(labels.y.size() * 4, 0.0);
      for (std::size_t i = 0; i < labels.y.size(); ++i)
        shares.y[i * 4 + static_cast<std::size_t>(labels.y[i])] = 1.0;
      const auto at = [](const model& m) {
        return std::dynamic_pointer_cast<const linear_model_linearization>(
            m.make(2)->linearize(m.theta.data(), m.lam.data()));
      };
      const auto a = at(labels), b = at(shares);
      CHECK(a->fun() == doctest::Approx(b->fun()).epsilon(1e-14));
      CHECK(largest_difference(a->jac(), b->jac()) <= 1e-15);
      random_source random(5);
      const std::vector<double> v = random.vector(static_cast<index>(a->jac().size()));
      CHECK(same_bits(times(a->hess(), v), times(b->hess(), v)));
      // What rounds is p (1 − y) + y (1 − p): no less than |p − y|.
      for (const bool by_row : {false, true}) {
        const std::vector<double> less = a->gradient_terms(by_row),
                                  more = b->gradient_terms(by_row);
        for (std::size_t j = 0; j < less.size(); ++j) CHECK(less[j] <= more[j] * (1 + 1e-12));
      }
    }
}

}  // namespace implicitgrad::testing
