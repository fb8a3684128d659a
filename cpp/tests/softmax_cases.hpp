// A softmax model with its data, and the loss of one row written out in extended precision.
#pragma once

#include <cmath>
#include <memory>
#include <vector>

#include "implicitgrad/linear_model.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

using real = long double;

struct exact_softmax {
  exact_softmax(const std::vector<double>& z, index label) {
    real top = z[0], sum = 0;
    for (const double each : z) top = std::max<real>(top, each);
    for (const double each : z) sum += std::exp(each - top);
    for (const double each : z) p.push_back(std::exp(each - top) / sum);
    // Σ_b e^{z_b − z_y} but for y itself, so that nothing cancels.
    real others = 0;
    for (index a = 0; a < static_cast<index>(z.size()); ++a)
      if (a != label) others += std::exp(static_cast<real>(z[a]) - z[label]);
    value = std::log1p(others);
    first = p;
    first[label] = 0;
    for (index a = 0; a < static_cast<index>(z.size()); ++a)
      if (a != label) first[label] -= p[a];
  }
  /// (diag(p) − ppᵀ) v = Σ_b p_a p_b (v_a − v_b)
  std::vector<real> product(const std::vector<double>& v) const {
    std::vector<real> out(p.size());
    for (std::size_t a = 0; a < p.size(); ++a)
      for (std::size_t b = 0; b < p.size(); ++b)
        out[a] += p[a] * p[b] * (static_cast<real>(v[a]) - v[b]);
    return out;
  }
  real value;
  std::vector<real> p, first;
};

struct model {
  model(index n, index p, index k, bool with_intercept, layout order, index folds)
      : classes(k), intercept(with_intercept), x(n, p, order, 1, 71) {
    random_source random(72);
    for (index i = 0; i < n; ++i)
      y.push_back(i < k ? static_cast<double>(i)
                        : std::floor(random.unit() * static_cast<double>(k)));
    for (index i = 0; i < n * folds; ++i) weights.push_back(i % 5 == 1 ? 0.0 : random.unit());
    for (index j = 0; j < p; ++j) pen.group.push_back(j % 2);
    pen.n_groups = p > 1 ? 2 : 1;
    theta = random.vector((p + (intercept ? 1 : 0)) * k * folds);
  }

  std::shared_ptr<linear_model> make(int threads, bool penalised = true) const {
    return std::make_shared<linear_model>(
        make_softmax_term(std::make_shared<dense_matrix<double>>(x.view()), y, classes, weights,
                          intercept, threads),
        penalised ? pen : penalty{});
  }

  index classes;
  bool intercept;
  stored_matrix<double> x;
  std::vector<double> y, weights, theta, lam{-1.5, -0.5};
  penalty pen;
};

inline std::vector<double> times(const Operator& a, const std::vector<double>& v) {
  std::vector<double> out(v.size(), nan);
  a.apply(column(v), column(out));
  return out;
}

}  // namespace implicitgrad::testing
