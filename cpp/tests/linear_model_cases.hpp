// Linear models of all kinds, and their definition written out in extended precision.
#pragma once

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "implicitgrad/linear_model.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

using real = long double;

struct problem {
  std::string loss, name;
  bool intercept;
  std::vector<double> y, weights;
  penalty pen;
  std::vector<double> theta, lam;

  index groups() const { return pen.n_groups; }
};

/// f and all its derivatives, entry by entry.
struct definition {
  real fun = 0, fun_scale = 0;
  std::vector<real> jac, jac_scale, jac_lam, hess, hess_scale, cross;

  template <class T>
  definition(const problem& f, const stored_matrix<T>& x) {
    const index n = x.rows, p = x.cols, size = p + (f.intercept ? 1 : 0), m = f.groups();
    jac.resize(size), jac_scale.resize(size), jac_lam.resize(m);
    hess.resize(size * size), hess_scale.resize(size * size), cross.resize(size * m);
    real total = 0;
    for (index i = 0; i < n; ++i) total += f.weights.empty() ? 1.0L : f.weights[i];
    for (index i = 0; i < n; ++i) {
      const real c = (f.weights.empty() ? 1.0L : f.weights[i]) / total;
      real z = 0, z_scale = 0;
      for (index j = 0; j < size; ++j) {
        z += x.entry(i, j) * f.theta[j];
        z_scale += std::abs(x.entry(i, j) * f.theta[j]);
      }
      real value, first, second, first_scale;
      if (f.loss == "squared") {
        value = (z - f.y[i]) * (z - f.y[i]) / 2, first = z - f.y[i], second = 1;
        first_scale = z_scale + std::abs(f.y[i]);
        fun_scale += c * first_scale * first_scale;
      } else {
        const real m_i = f.y[i] * z;
        value = std::log1p(std::exp(-std::abs(m_i))) + std::max(-m_i, 0.0L);
        first = -f.y[i] / (1 + std::exp(m_i));
        second = 1 / (2 + std::exp(m_i) + std::exp(-m_i));
        first_scale = 1 + z_scale;
        fun_scale += c * (1 + z_scale);
      }
      fun += c * value;
      for (index j = 0; j < size; ++j) {
        jac[j] += c * first * x.entry(i, j);
        jac_scale[j] += c * first_scale * std::abs(x.entry(i, j));
        for (index l = 0; l < size; ++l) {
          hess[j * size + l] += c * second * x.entry(i, j) * x.entry(i, l);
          hess_scale[j * size + l] += c * (1 + z_scale) * std::abs(x.entry(i, j) * x.entry(i, l));
        }
      }
    }
    for (index j = 0; j < p; ++j) {
      real strength = f.pen.fixed;
      if (m > 0) {
        const index l = f.pen.group[j];
        const real e = std::exp(static_cast<real>(f.lam[l]));
        strength += e;
        cross[l * size + j] = e * f.theta[j];
        jac_lam[l] += e * f.theta[j] * f.theta[j] / 2;
      }
      fun += strength * f.theta[j] * f.theta[j] / 2;
      fun_scale += strength * f.theta[j] * f.theta[j] / 2;
      jac[j] += strength * f.theta[j], jac_scale[j] += std::abs(strength * f.theta[j]);
      hess[j * size + j] += strength, hess_scale[j * size + j] += strength;
    }
  }
};

inline penalty make_penalty(const std::string& per, index p, double fixed) {
  penalty pen{fixed, 0, {}};
  if (per == "none") return pen;
  pen.n_groups = per == "all" ? 1 : per == "feature" ? p : 3;
  for (index j = 0; j < p; ++j) pen.group.push_back(per == "feature" ? j : (7 * j) % pen.n_groups);
  return pen;
}

template <class T>
std::vector<problem> problems(const stored_matrix<T>& x) {
  std::vector<problem> result;
  random_source random(61);
  for (const std::string loss : {"squared", "logistic"})
    for (const bool intercept : {false, true})
      for (const bool weighted : {false, true})
        for (const std::string per : {"none", "all", "group", "feature"}) {
          problem f{loss,
                    loss + (intercept ? ", intercept" : "") + (weighted ? ", weights" : "") +
                        ", penalty " + per,
                    intercept,
                    random.vector(x.rows),
                    {},
                    make_penalty(per, x.cols, weighted ? 0.25 : 0.0),
                    random.vector(x.cols + (intercept ? 1 : 0)),
                    {}};
          if (loss == "logistic")
            for (double& y : f.y) y = y < 0 ? -1.0 : 1.0;
          if (weighted) {
            f.weights = random.vector(x.rows);
            for (double& w : f.weights) w = std::max(w, 0.0);  // half of them zero
            f.weights[0] = 1.0;
          }
          f.lam = random.vector(f.pen.n_groups);
          for (double& l : f.lam) l = 3 * l - 1;
          result.push_back(std::move(f));
        }
  return result;
}

template <class T>
std::shared_ptr<const linear_model_linearization> linearize(const problem& f,
                                                            const stored_matrix<T>& x,
                                                            int threads = 1) {
  const auto model = make_linear_model(std::make_shared<dense_matrix<T>>(x.view()), f.y, f.weights,
                                       f.loss, f.pen, f.intercept, threads);
  return std::static_pointer_cast<const linear_model_linearization>(
      model->linearize(f.theta.data(), f.lam.data()));
}

}  // namespace implicitgrad::testing
