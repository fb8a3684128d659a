#include "implicitgrad/solvers/cholesky.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>
#include <exception>
#include <memory>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/multiversion.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"
#include "implicitgrad/triangular.hpp"

namespace implicitgrad {

namespace {

// Steps of the power methods: at most so many, and no more once an estimate has settled.
constexpr int power_steps = 8;

bool settled(int step, double estimate, double before) {
  return step >= 2 && std::abs(estimate - before) <= 0.02 * std::abs(estimate);
}

/// A larger factor would take more than 16 GB.
index checked(index n) {
  require(n <= 46340, "cholesky is for at most 46340 parameters; use cg");
  return n;
}

constexpr index side = 32;

/// The lower triangle, copied to the upper one; a square at a time, both of which are in cache.
void mirror(index n, double* a) {
  for (index left = 0; left < n; left += side)
    for (index top = left; top < n; top += side)
      for (index j = left; j < std::min(n, left + side); ++j)
        for (index i = std::max(top, j + 1); i < std::min(n, top + side); ++i)
          a[i * n + j] = a[j * n + i];
}

struct column_size {
  double largest, poison;  // of absolute values; NaN unless all entries are finite
};

/// x_i ← x_i s_i factor.
IMPLICITGRAD_KERNEL column_size scale_column(double* __restrict x, const double* __restrict s,
                                             index count, double factor) {
  double largest = 0.0, poison = 0.0;
#pragma omp simd reduction(max : largest) reduction(+ : poison)
  for (index i = 0; i < count; ++i) {
    const double value = x[i] * s[i] * factor, size = std::abs(value);
    x[i] = value;
    largest = size > largest ? size : largest;
    poison += value * 0.0;
  }
  return {largest, poison};
}

}  // namespace

factored_block::factored_block(index n, double* entries, int n_threads)
    : n_(n), n_threads_(n_threads), entries_(entries), scale_(static_cast<std::size_t>(n)) {
  mirror(n_, entries_);
  for (index j = 0; j < n_; ++j) diagonal_.push_back(entries_[j * n_ + j]);
  const auto give_up = [&] {  // the solve will meet the NaN or infinity and say so
    finite_ = false;
    for (index j = 0; j < n_; ++j) {
      std::fill(entries_ + j * n_ + j, entries_ + (j + 1) * n_, 0.0);
      entries_[j * n_ + j] = scale_[j] = 1.0;
    }
    curvature_max_ = HUGE_VAL;
  };

  // S A S with s_i ≈ a_ii^{-1/2} has a diagonal of about one; that undoes what scales alone do to
  // the condition. Powers of two round nothing. Returns the largest entry.
  const auto scale_by = [&](auto size_of) {
    for (index i = 0; i < n_; ++i) {
      int exponent = 0;
      std::frexp(size_of(i), &exponent);
      scale_[i] = std::ldexp(1.0, -exponent / 2);
    }
    column_size all{0.0, 0.0};
    for (index j = 0; j < n_; ++j) {
      entries_[j * n_ + j] = diagonal_[j];
      const auto [largest, poison] =
          scale_column(entries_ + j * n_ + j, scale_.data() + j, n_ - j, scale_[j]);
      all = {std::max(all.largest, largest), all.poison + poison};
    }
    return all.poison == 0.0 ? all.largest : HUGE_VAL;
  };
  const auto restore = [&] {
    for (index j = 0; j < n_; ++j) {
      entries_[j * n_ + j] = diagonal_[j];
      for (index i = j + 1; i < n_; ++i) entries_[j * n_ + i] = entries_[i * n_ + j];
    }
  };
  // Where there is no positive diagonal entry to go by, the largest entry takes its place.
  double typical = 0.0;
  const auto find_typical = [&] {
    for (index j = 0; j < n_; ++j)
      for (index i = j; i < n_; ++i) typical = std::max(typical, std::abs(entries_[j * n_ + i]));
    if (!(typical > 0.0 && std::isfinite(typical))) typical = 1.0;
  };
  if (!std::all_of(diagonal_.begin(), diagonal_.end(), [](double d) { return d > 0.0; }))
    find_typical();
  const auto own = [&](index i) { return diagonal_[i] > 0.0 ? diagonal_[i] : typical; };
  const auto common = [&](index) { return typical; };
  // |a_ij| ≤ √(a_ii a_jj) in a semidefinite matrix. Where that fails by far, no scaling will help.
  const bool balanced = scale_by(own) <= 4.0;
  if (!balanced) {
    restore();
    find_typical();
    if (!std::isfinite(scale_by(common))) {
      give_up();
      return;
    }
  }

  // The smallest shift, among powers of two times the rounding level, that makes it definite.
  const double noise = DBL_EPSILON * static_cast<double>(n_ + 8);
  poll_interrupt();
  while (!cholesky_decompose(n_, entries_, n_threads_)) {
    shift_ = shift_ == 0.0 ? 1.0 : 2.0 * shift_;
    if (!std::isfinite(shift_ * noise)) {
      give_up();
      return;
    }
    restore();
    balanced ? scale_by(own) : scale_by(common);
    for (index i = 0; i < n_; ++i) entries_[i * n_ + i] += shift_ * noise;
    poll_interrupt();
  }
}

void factored_block::judge() {
  if (!finite_) return;
  curvature_max_ = dominant_eigenvalue(0.0);
  if (shift_ > 0.0) {
    verdict_ = shift_ <= 16.0 ? definiteness::singular : definiteness::indefinite;
    if (verdict_ == definiteness::singular) return;
    // The power method on A − μI leads to the end of the spectrum that is farther from μ.
    if (curvature_max_ < 0.0) curvature_max_ = dominant_eigenvalue(curvature_max_);
    curvature_min_ = std::min(negative_rayleigh(), dominant_eigenvalue(curvature_max_));
    return;
  }
  double scaled = 0.0;
  smallest_eigenvalues(scaled, curvature_min_);
  if (scaled <= DBL_EPSILON * static_cast<double>(n_ + 8)) verdict_ = definiteness::singular;
}

/// A start for the power methods: fixed, and with no symmetry.
std::vector<double> factored_block::start() const {
  std::vector<double> v;
  for (index i = 0; i < n_; ++i)
    v.push_back(1.0 + 0.5 * std::sin(1.7 * static_cast<double>(i + 1)));
  return v;
}

/// The eigenvalue farthest from μ, by the power method on A − μI.
double factored_block::dominant_eigenvalue(double mu) const {
  std::vector<double> v = start(), w(v.size());
  double estimate = 0.0;
  for (int step = 0; step < power_steps; ++step) {
    const double norm = host_space::norm(n_, v.data());
    if (!std::isfinite(norm)) return norm;
    if (norm == 0.0) break;
    host_space::axpby(n_, 1.0 / norm, v.data(), 0.0, v.data());
    symmetric_product(n_, entries_, diagonal_.data(), v.data(), w.data());
    if (mu != 0.0) host_space::axpby(n_, -mu, v.data(), 1.0, w.data());
    const double before = std::exchange(estimate, host_space::dot(n_, v.data(), w.data()));
    if (settled(step, estimate, before)) break;
    std::swap(v, w);
  }
  return estimate + mu;
}

/// By inverse iteration, of the scaled matrix and of A at once, so that the factor is read for
/// both.
void factored_block::smallest_eigenvalues(double& scaled, double& unscaled) const {
  std::vector<double> v(static_cast<std::size_t>(2 * n_)), w(v.size());
  const std::vector<double> begin = start();
  std::copy(begin.begin(), begin.end(), v.begin());
  std::copy(begin.begin(), begin.end(), v.begin() + n_);
  double estimate[2] = {0.0, 0.0};
  bool done[2] = {false, false};
  for (int step = 0; step < power_steps && !(done[0] && done[1]); ++step) {
    for (int c = 0; c < 2; ++c) {
      double* column = v.data() + c * n_;
      const double norm = host_space::norm(n_, column);
      if (!(std::isfinite(norm) && norm > 0.0)) done[c] = true;
      if (!done[c]) host_space::axpby(n_, 1.0 / norm, column, 0.0, column);
    }
    w = v;
    for (index i = 0; i < n_; ++i) w[n_ + i] *= scale_[i];
    cholesky_solve(n_, entries_, w.data(), 2);
    for (index i = 0; i < n_; ++i) w[n_ + i] *= scale_[i];
    for (int c = 0; c < 2; ++c) {
      if (done[c]) continue;
      const double quotient = host_space::dot(n_, v.data() + c * n_, w.data() + c * n_);
      const double before = std::exchange(estimate[c], 1.0 / quotient);
      done[c] = settled(step, estimate[c], before);
    }
    std::swap(v, w);
  }
  scaled = estimate[0];
  unscaled = estimate[1];
}

/// The least Rayleigh quotient of A met on the way to a direction where it is negative, where
/// inverse iteration with the shifted factor leads.
double factored_block::negative_rayleigh() const {
  std::vector<double> v = start(), w(v.size());
  double least = 0.0;
  for (int step = 0; step < 4 * power_steps; ++step) {
    const double norm = host_space::norm(n_, v.data());
    if (!(std::isfinite(norm) && norm > 0.0)) break;
    host_space::axpby(n_, 1.0 / norm, v.data(), 0.0, v.data());
    symmetric_product(n_, entries_, diagonal_.data(), v.data(), w.data());
    least = std::min(least, host_space::dot(n_, v.data(), w.data()));
    solve(v.data(), 1, true);
  }
  return least;
}

double factored_block::proven_minimum(double slack) const {
  if (verdict_ != definiteness::positive || !finite_) return 0.0;
  double trace = 0.0;
  for (const double d : diagonal_) trace += d;
  const double backward = 4.0 * DBL_EPSILON * static_cast<double>(n_ + 2) * trace;
  for (const double share : {0.9, 0.5, 0.1}) {
    const double shift = share * curvature_min_;
    if (!(shift > backward + slack)) continue;
    std::vector<double> factor(static_cast<std::size_t>(n_ * n_));
    for (index j = 0; j < n_; ++j) {  // A is symmetric: its upper triangle, as the lower one
      factor[j * n_ + j] = diagonal_[j] - shift;
      for (index i = 0; i < j; ++i) factor[i * n_ + j] = entries_[j * n_ + i];
    }
    poll_interrupt();
    if (cholesky_decompose(n_, factor.data(), n_threads_)) return shift - backward - slack;
  }
  return 0.0;
}

void factored_block::solve(double* v, index columns, bool unscaled) const {
  const auto rescale = [&] {
    if (!unscaled) return;
    for (index c = 0; c < columns; ++c)
      for (index i = 0; i < n_; ++i) v[c * n_ + i] *= scale_[i];
  };
  rescale();
  cholesky_solve(n_, entries_, v, columns);
  rescale();
}

/// body(b, threads) for each block: several at once, of one thread each, where they are many and
/// worth it, and those left over on all threads. Exceptions are passed on.
template <class Body>
void cholesky_factor::for_blocks(Body&& body) const {
  constexpr index worth = 128;
  const auto count = size_ / (order_ * repeat_);
  const index at_once = order_ >= worth ? count - count % n_threads_ : 0;
  std::vector<std::exception_ptr> failed(static_cast<std::size_t>(count));
  const auto guarded = [&](index b, int threads) {
    try {
      body(b, threads);
    } catch (...) {
      failed[static_cast<std::size_t>(b)] = std::current_exception();
    }
  };
  parallel_for(at_once, n_threads_, [&](index b, int) { guarded(b, 1); });
  for (index b = at_once; b < count; ++b) guarded(b, n_threads_);
  for (const std::exception_ptr& error : failed)
    if (error) std::rethrow_exception(error);
}

cholesky_factor::cholesky_factor(const Operator& a, std::vector<double> storage)
    : size_(a.size()),
      order_(checked(a.order())),
      repeat_(a.blocks().repeat),
      n_threads_(a.n_threads()),
      storage_(std::move(storage)) {
  const index count = a.blocks().count, entries = order_ * order_;
  storage_.resize(static_cast<std::size_t>(count * entries));
  a.dense(storage_.data());
  std::vector<std::unique_ptr<factored_block>> made(static_cast<std::size_t>(count));
  for_blocks([&](index b, int threads) {
    made[static_cast<std::size_t>(b)] =
        std::make_unique<factored_block>(order_, storage_.data() + b * entries, threads);
  });
  for (auto& block_of : made) blocks_.push_back(std::move(*block_of));
}

const std::vector<factored_block>& cholesky_factor::judged() const {
  std::call_once(judged_, [this] {
    for_blocks([&](index b, int) { blocks_[static_cast<std::size_t>(b)].judge(); });
  });
  return blocks_;
}

void cholesky_factor::apply(const_block v, block out) const {
  const index stretch = order_ * repeat_;
  std::copy_n(v.data, v.size(), out.data);
  for_blocks([&](index b, int) {
    for (index c = 0; c < v.cols; ++c)
      blocks_[static_cast<std::size_t>(b)].solve(out.col(c) + b * stretch, repeat_);
  });
}

definiteness cholesky_factor::verdict() const {
  definiteness worst = definiteness::positive;
  for (const factored_block& one : judged()) worst = std::max(worst, one.verdict());
  return worst;
}

double cholesky_factor::curvature_min() const {
  double least = judged().front().curvature_min();
  for (const factored_block& one : blocks_) least = std::min(least, one.curvature_min());
  return least;
}

double cholesky_factor::curvature_max() const {
  double most = judged().front().curvature_max();
  for (const factored_block& one : blocks_)
    if (!(one.curvature_max() <= most)) most = one.curvature_max();
  return most;
}

std::vector<double> cholesky_factor::matrix_diagonal() const {
  std::vector<double> diagonal;
  diagonal.reserve(static_cast<std::size_t>(size_));
  for (const factored_block& one : blocks_)
    for (index r = 0; r < repeat_; ++r)
      diagonal.insert(diagonal.end(), one.matrix_diagonal().begin(), one.matrix_diagonal().end());
  return diagonal;
}

double cholesky_factor::proven_minimum(double slack) const {
  judged();
  std::vector<double> least(blocks_.size());
  for_blocks([&](index b, int) {
    least[static_cast<std::size_t>(b)] = blocks_[static_cast<std::size_t>(b)].proven_minimum(slack);
  });
  return *std::min_element(least.begin(), least.end());
}

std::shared_ptr<const cholesky_factor> Operator::factor() const {
  return std::make_shared<const cholesky_factor>(*this);
}

}  // namespace implicitgrad
