#include "implicitgrad/hyper_blocks.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "implicitgrad/errors.hpp"

namespace implicitgrad {

row_map::row_map(std::string transform, index n_lam, std::vector<index> slot, index width)
    : transform_(std::move(transform)), n_lam_(n_lam), slot_(std::move(slot)) {
  bool known = transform_ == "softmax" || transform_ == "shares";
  for (const char* each : {"identity", "sigmoid", "softplus", "exp"})
    known = known || transform_ == each;
  require(known, "unknown transform");
  for (const index l : slot_) require(l >= -1 && l < n_lam_, "a row has a label out of range");
  if (transform_ == "softmax") run_ = n_lam_, total_ = static_cast<double>(n_lam_);
  if (transform_ == "shares") run_ = width;
  require(transform_ != "shares" || (width >= 1 && n_lam_ % width == 0),
          "shares come in runs of the same length");
}

row_map row_map::each(std::string transform, index rows) {
  std::vector<index> slot(static_cast<std::size_t>(rows));
  std::iota(slot.begin(), slot.end(), index{0});
  return row_map(std::move(transform), rows, std::move(slot));
}

row_map::point::point(const row_map& map, const double* lam) : map_(map) {
  const index m = map.n_lam_;
  value_.resize(static_cast<std::size_t>(m));
  if (map.run_ > 0) {
    // s = total · softmax(λ), whose Jacobian is diag(s) − s sᵀ/total.
    each_run([&](index begin) {
      const double* from = lam + begin;
      const double most = *std::max_element(from, from + map.run_);
      double sum = 0.0;
      for (index l = 0; l < map.run_; ++l) sum += value_[begin + l] = std::exp(from[l] - most);
      for (index l = 0; l < map.run_; ++l) value_[begin + l] *= map.total_ / sum;
    });
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

template <class Body>
void row_map::point::each_run(Body&& body) const {
  for (index begin = 0; begin < map_.n_lam_; begin += map_.run_) body(begin);
}

void row_map::point::multiply_runs(const double* v, double* out) const {
  each_run([&](index begin) {
    double mean = 0.0;
    for (index l = begin; l < begin + map_.run_; ++l) mean += value_[l] * v[l];
    mean /= map_.total_;
    for (index l = begin; l < begin + map_.run_; ++l) out[l] = value_[l] * (v[l] - mean);
  });
}

void row_map::point::set(double* rows) const {
  for (index i = 0; i < map_.size(); ++i)
    if (map_.slot_[i] >= 0) rows[i] = value_[map_.slot_[i]];
}

void row_map::point::pull(const double* v, double* out) const {
  std::fill_n(out, map_.n_lam_, 0.0);
  for (index i = 0; i < map_.size(); ++i)
    if (map_.slot_[i] >= 0) out[map_.slot_[i]] += v[i];
  if (map_.run_ > 0) return multiply_runs(out, out);
  for (index l = 0; l < map_.n_lam_; ++l) out[l] *= slope_[l];
}

void row_map::point::push(const double* u, double* out) const {
  std::vector<double> moved(value_.size());
  if (map_.run_ > 0) multiply_runs(u, moved.data());
  for (std::size_t l = 0; l < slope_.size(); ++l) moved[l] = slope_[l] * u[l];
  for (index i = 0; i < map_.size(); ++i) out[i] = map_.slot_[i] < 0 ? 0.0 : moved[map_.slot_[i]];
}

std::vector<double> row_map::point::gains() const {
  // (Σ_{i in l} v_i)² ≤ n_l Σ v_i²; and J² ⪯ max(s) diag(s) on each run of a softmax.
  std::vector<double> count(value_.size()), gain = slope_, out(map_.slot_.size());
  if (map_.run_ > 0) gain.resize(value_.size());
  for (const index l : map_.slot_)
    if (l >= 0) count[l] += 1.0;
  if (map_.run_ > 0)
    each_run([&](index begin) {
      const double* s = value_.data() + begin;
      const double most = *std::max_element(s, s + map_.run_);
      for (index l = 0; l < map_.run_; ++l) gain[begin + l] = std::sqrt(most) * std::sqrt(s[l]);
    });
  for (std::size_t i = 0; i < out.size(); ++i) {
    const index l = map_.slot_[i];
    if (l >= 0) out[i] = gain[l] * std::sqrt(count[l]);
  }
  return out;
}

input_rows::input_rows(std::vector<index> rows, std::vector<index> slot, index count, index width)
    : rows_(std::move(rows)), slot_(std::move(slot)), count_(count), width_(width) {
  require(slot_.size() == rows_.size(), "inputs must have one label for each of its rows");
  for (const index l : slot_) require(l >= 0 && l < count_, "a row has a label out of range");
}

template <class Body>
void input_rows::each_entry(Body&& body) const {
  for (std::size_t s = 0, at = 0; s < slot_.size(); ++s)
    for (index j = 0; j < width_; ++j) body(at++, slot_[s] * width_ + j);
}

void input_rows::value(const double* lam, double* x) const {
  each_entry([&](std::size_t at, index l) { x[at] = lam[l]; });
}

void input_rows::pull(const double*, const double* m, double* out) const {
  std::fill_n(out, n_lam(), 0.0);
  each_entry([&](std::size_t at, index l) { out[l] += m[at]; });
}

void input_rows::push(const double*, const double* u, double* out) const {
  each_entry([&](std::size_t at, index l) { out[at] = u[l]; });
}

/// J has as many ones in a column as a row of λ occurs.
double input_rows::gain() const {
  std::vector<double> count(static_cast<std::size_t>(count_));
  double most = 0.0;
  for (const index l : slot_) most = std::max(most, count[l] += 1.0);
  return std::sqrt(most);
}

}  // namespace implicitgrad
