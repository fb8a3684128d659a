#include "implicitgrad/hyper_blocks.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "implicitgrad/errors.hpp"

namespace implicitgrad {

row_map::row_map(std::string transform, index n_lam, std::vector<index> slot)
    : transform_(std::move(transform)), n_lam_(n_lam), slot_(std::move(slot)) {
  for (const char* known : {"identity", "sigmoid", "softplus", "exp", "softmax"})
    if (transform_ == known) n_lam = -1;
  require(n_lam == -1, "unknown transform");
  for (const index l : slot_) require(l >= -1 && l < n_lam_, "a row has a label out of range");
}

row_map row_map::each(std::string transform, index rows) {
  std::vector<index> slot(static_cast<std::size_t>(rows));
  std::iota(slot.begin(), slot.end(), index{0});
  return row_map(std::move(transform), rows, std::move(slot));
}

row_map::point::point(const row_map& map, const double* lam) : map_(map) {
  const index m = map.n_lam_;
  value_.resize(static_cast<std::size_t>(m));
  if (map.transform_ == "softmax") {
    // m · softmax(λ), whose Jacobian is diag(s) − s sᵀ/m.
    const double most = m > 0 ? *std::max_element(lam, lam + m) : 0.0;
    double sum = 0.0;
    for (index l = 0; l < m; ++l) sum += value_[l] = std::exp(lam[l] - most);
    for (double& s : value_) s *= static_cast<double>(m) / sum;
    return;
  }
  slope_.resize(value_.size());
  for (index l = 0; l < m; ++l) {
    const double x = lam[l], e = std::exp(-std::abs(x)), u = 1.0 / (1.0 + e);
    const double sigmoid = x < 0.0 ? e * u : u;
    if (map.transform_ == "identity") value_[l] = x, slope_[l] = 1.0;
    if (map.transform_ == "exp") value_[l] = slope_[l] = std::exp(x);
    if (map.transform_ == "sigmoid") value_[l] = sigmoid, slope_[l] = e * u * u;
    if (map.transform_ == "softplus")
      value_[l] = std::max(x, 0.0) + std::log1p(e), slope_[l] = sigmoid;
  }
}

void row_map::point::set(double* rows) const {
  for (index i = 0; i < map_.rows(); ++i)
    if (map_.slot_[i] >= 0) rows[i] = value_[map_.slot_[i]];
}

void row_map::point::pull(const double* v, double* out) const {
  std::fill_n(out, map_.n_lam_, 0.0);
  for (index i = 0; i < map_.rows(); ++i)
    if (map_.slot_[i] >= 0) out[map_.slot_[i]] += v[i];
  if (!slope_.empty()) {
    for (index l = 0; l < map_.n_lam_; ++l) out[l] *= slope_[l];
    return;
  }
  double mean = 0.0;
  for (index l = 0; l < map_.n_lam_; ++l) mean += value_[l] * out[l];
  mean /= static_cast<double>(map_.n_lam_);
  for (index l = 0; l < map_.n_lam_; ++l) out[l] = value_[l] * (out[l] - mean);
}

void row_map::point::push(const double* u, double* out) const {
  double mean = 0.0;
  if (slope_.empty()) {
    for (index l = 0; l < map_.n_lam_; ++l) mean += value_[l] * u[l];
    mean /= static_cast<double>(map_.n_lam_);
  }
  for (index i = 0; i < map_.rows(); ++i) {
    const index l = map_.slot_[i];
    if (l < 0)
      out[i] = 0.0;
    else
      out[i] = slope_.empty() ? value_[l] * (u[l] - mean) : slope_[l] * u[l];
  }
}

std::vector<double> row_map::point::gains() const {
  // (Σ_{i in l} v_i)² ≤ n_l Σ v_i²; and J² ⪯ max(s) diag(s) for softmax.
  std::vector<double> count(value_.size()), out(map_.slot_.size());
  for (const index l : map_.slot_)
    if (l >= 0) count[l] += 1.0;
  const double most = value_.empty() ? 0.0 : *std::max_element(value_.begin(), value_.end());
  for (std::size_t i = 0; i < out.size(); ++i) {
    const index l = map_.slot_[i];
    if (l < 0) continue;
    const double slope = slope_.empty() ? std::sqrt(most) * std::sqrt(value_[l]) : slope_[l];
    out[i] = slope * std::sqrt(count[l]);
  }
  return out;
}

void input_rows::value(const double* lam, double* x) const { std::copy_n(lam, n_lam(), x); }

void input_rows::pull(const double*, const double* m, double* out) const {
  std::copy_n(m, n_lam(), out);
}

void input_rows::push(const double*, const double* u, double* out) const {
  std::copy_n(u, n_lam(), out);
}

}  // namespace implicitgrad
