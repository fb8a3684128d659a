#include "implicitgrad/solvers/nystrom.hpp"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/gram.hpp"
#include "implicitgrad/parallel.hpp"
#include "implicitgrad/random.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/solvers/block_cg.hpp"
#include "implicitgrad/solvers/kept_preconditioner.hpp"
#include "implicitgrad/solvers/small_cholesky.hpp"
#include "implicitgrad/space.hpp"
#include "implicitgrad/triangular.hpp"

namespace implicitgrad {

namespace {

// A free rank: at first, and at most; and the most numbers in that many columns.
constexpr index first_rank = 12, most_rank = 192, most_numbers = index{1} << 26;
// As far as a spectrum that falls steeply leads before CG has shown that it needs more.
constexpr index unasked_rank = 96;
// Columns of Ω that share a pass over the data.
constexpr index together = 24;

/// The lower triangle of VᵀV, column-major k × k, for the n × k columns that are ld apart.
std::vector<double> gram_of(index n, index k, const double* v, index ld, int n_threads) {
  const std::vector<double> ones(static_cast<std::size_t>(std::max(n, k)), 1.0);
  std::vector<double> out(static_cast<std::size_t>(k * k));
  const dense_matrix<double> columns(v, n, k, ld, layout::column_major);
  weighted_gram<double>(columns, false, ones.data(), ones.data(), out.data(), n_threads);
  return out;
}

/// V ← V L⁻ᵀ with orthonormal columns; returns the lower triangle L, so that V was V Lᵀ; empty
/// where V is not finite. The Cholesky factor of the Gram matrix, twice; a third time after a shift
/// where V is so ill-conditioned that the first needs one (T. Fukaya, R. Kannan, Y. Nakatsukasa,
/// Y. Yamamoto, Y. Yanagisawa, "Shifted Cholesky QR", SIAM Journal on Scientific Computing 42,
/// 2020). Cost: 2 n k² flops a time.
std::vector<double> cholesky_qr(index n, index k, double* v, index ld, int n_threads) {
  std::vector<double> total;
  int passes = 2;
  for (int pass = 0; pass < passes; ++pass) {
    poll_interrupt();
    std::vector<double> l = gram_of(n, k, v, ld, n_threads);
    double trace = 0.0;
    for (index j = 0; j < k; ++j) trace += l[j * k + j];
    if (!(std::isfinite(trace) && trace > 0.0)) return {};
    const std::vector<double> gram = l;
    for (double shift = 0.0; !cholesky_decompose(k, l.data(), n_threads);) {
      shift = std::max(4.0 * shift, 11.0 * DBL_EPSILON * trace);
      if (shift > trace) return {};
      l = gram;
      for (index j = 0; j < k; ++j) l[j * k + j] += shift;
      if (passes < 4) ++passes;
    }
    cholesky_divide(k, l.data(), v, n, ld, n_threads);
    for (index j = 0; j < k; ++j) std::fill_n(l.data() + j * k, j, 0.0);
    if (pass == 0) {
      total = std::move(l);
      continue;
    }
    std::vector<double> product(l.size());  // total · l, of two lower triangles
    for (index j = 0; j < k; ++j)
      for (index m = j; m < k; ++m)
        for (index i = m; i < k; ++i) product[j * k + i] += total[m * k + i] * l[j * k + m];
    total = std::move(product);
  }
  return total;
}

/// The Rayleigh quotient of v, brought near the dominant eigenvector of a small symmetric matrix
/// that multiply(v) applies in place.
template <class Multiply>
double power_method(std::vector<double>& v, Multiply&& multiply) {
  const auto k = static_cast<index>(v.size());
  for (index i = 0; i < k; ++i) v[i] = 1.0 + 0.5 * std::sin(1.7 * static_cast<double>(i + 1));
  double quotient = 0.0;
  for (int step = 0; step < 16; ++step) {
    const double norm = host_space::norm(k, v.data());
    if (!(norm > 0.0 && std::isfinite(norm))) return norm;
    for (double& x : v) x /= norm;
    std::vector<double> before = v;
    multiply(v);
    quotient = host_space::dot(k, before.data(), v.data());
    if (step == 15) v = std::move(before);
  }
  return quotient;
}

}  // namespace

nystrom_preconditioner::nystrom_preconditioner(const Operator& a, index rank, std::uint64_t seed,
                                               bool scaled)
    : a_(a), n_(a.size()), n_threads_(a.n_threads()), seed_(seed) {
  scale_.resize(static_cast<std::size_t>(n_));
  if (!(scaled && a.diagonal(scale_.data()))) std::fill(scale_.begin(), scale_.end(), 1.0);
  for (double& s : scale_) s = s > 0.0 && std::isfinite(s) ? 1.0 / std::sqrt(s) : 1.0;

  automatic_ = rank <= 0;
  const double enough = 10.0 * penalty();
  double before = HUGE_VAL;
  bool falls = sketched(std::min(automatic_ ? first_rank : rank, n_));
  while (falls && may_grow() && 2 * rank_ <= unasked_rank) {
    falls = smallest_ < 0.25 * before && smallest_ > enough;
    before = smallest_;
    falls = falls && sketched(2 * rank_);
  }
  products_ = made_;
  if (!may_grow()) pairs_ = {};
}

bool nystrom_preconditioner::may_grow() const {
  return automatic_ && rank_ > 0 && 2 * rank_ <= most_rank && 4 * rank_ <= n_ &&
         2 * rank_ * n_ <= most_numbers;
}

/// Brings the rank to `columns`; false where no sketch can be made.
bool nystrom_preconditioner::sketched(index columns) {
  sketch(columns);
  if (build()) return true;
  rank_ = 0;
  return false;
}

solve_report nystrom_preconditioner::solve(const Operator& a, const_block b, block x, bool warm,
                                           const solve_options& options) {
  const double tightest = *std::min_element(options.rtol.begin(), options.rtol.end());
  solve_report total;
  for (;;) {
    bool gave_up = false;
    double start = 0.0;
    const index spent = total.iterations, least = std::max(2 * first_rank, rank_ + rank_ / 2);
    solve_options here = options;
    here.maxiter = options.maxiter - spent;
    if (options.monitor)
      here.monitor = [&](index iteration, double residual, const double* at) {
        return options.monitor(spent + iteration, residual, at);
      };
    if (may_grow())
      here.give_up = [&](index iteration, double residual) {
        if (iteration == 1) start = residual;
        if (iteration < least) return false;
        const double gained = std::log(start / residual) / static_cast<double>(iteration - 1);
        const double due = std::log(residual / std::max(tightest, DBL_EPSILON));
        return gave_up = due > gained * static_cast<double>(rank_);
      };
    total.follow(cg_for<host_space>(a, this, b, x, warm, here));
    if (!gave_up || total.status != solve_status::iteration_limit ||
        total.iterations >= options.maxiter)
      return total;
    warm = true;
    const index before = made_;
    sketched(2 * rank_);
    total.products += made_ - before;
    if (!may_grow()) pairs_ = {};
  }
}

/// A lower limit of Ã's spectrum as far as the penalty tells, or 0.
double nystrom_preconditioner::penalty() const {
  if (a_.sampled() == nullptr) return 0.0;
  double least = HUGE_VAL;
  index j = 0;
  for (const double s : a_.sampled()->strength()) {
    least = std::min(least, s * scale_[j] * scale_[j]);
    ++j;
  }
  return std::isfinite(least) ? least : 0.0;
}

/// More columns of Ω, orthonormal also to those there are, and of Y = S A S Ω.
void nystrom_preconditioner::sketch(index columns) {
  const index before = rank_;
  pairs_.resize(static_cast<std::size_t>(2 * n_ * columns));
  double* omega = pairs_.data();
  parallel_for(columns - before, n_threads_, [&](index j, int) {
    const std::uint64_t stream = mixed(seed_ ^ mixed(static_cast<std::uint64_t>(before + j)));
    double* column = omega + 2 * (before + j) * n_;
    for (index i = 0; i < n_; ++i) column[i] = normal(stream, static_cast<std::uint64_t>(i));
  });
  cholesky_qr(n_, columns, omega, 2 * n_, n_threads_);

  std::vector<double> v(static_cast<std::size_t>(n_ * together)), out(v.size());
  for (index first = before; first < columns; first += together) {
    poll_interrupt();
    const index k = std::min(together, columns - first);
    for (index c = 0; c < k; ++c)
      for (index i = 0; i < n_; ++i) v[c * n_ + i] = scale_[i] * omega[2 * (first + c) * n_ + i];
    a_.apply({v.data(), n_, k}, {out.data(), n_, k});
    for (index c = 0; c < k; ++c)
      for (index i = 0; i < n_; ++i)
        pairs_[(2 * (first + c) + 1) * n_ + i] = scale_[i] * out[c * n_ + i];
  }
  made_ += columns - before;
  rank_ = columns;
}

/// Q and L from Ω and Y; false where A is not finite or not positive semidefinite on Ω.
bool nystrom_preconditioner::build() {
  const index k = rank_, wide = 2 * k;
  const std::vector<double> gram = gram_of(n_, wide, pairs_.data(), n_, n_threads_);
  std::vector<double> core(static_cast<std::size_t>(k * k));  // ΩᵀY, symmetric up to noise
  double size = 0.0, skew = 0.0;
  for (index j = 0; j < k; ++j) {
    size += gram[(2 * j + 1) * wide + 2 * j + 1];
    for (index i = j; i < k; ++i) {
      const double lower = gram[2 * j * wide + 2 * i + 1];  // y_iᵀ ω_j
      const double upper = i == j ? lower : gram[(2 * j + 1) * wide + 2 * i];
      core[j * k + i] = 0.5 * (lower + upper);
      skew += (lower - upper) * (lower - upper);
    }
  }
  if (!(std::isfinite(size + skew) && size > 0.0)) return false;

  // Ã + νI is what is sketched: ν covers rounding, and what the asymmetry of the products (from
  // finite differences, say) shows of their noise.
  const double nu =
      16.0 * DBL_EPSILON * std::sqrt(static_cast<double>(n_) * size) + 4.0 * std::sqrt(skew);
  for (index j = 0; j < k; ++j) core[j * k + j] += nu;
  // ‖SΩz‖², for Rayleigh quotients of A along SΩz.
  const auto square = [&](const std::vector<double>& z) {
    std::vector<double> v(static_cast<std::size_t>(n_));
    for (index j = 0; j < k; ++j)
      host_space::axpby(n_, z[j], pairs_.data() + 2 * j * n_, 1.0, v.data());
    for (index i = 0; i < n_; ++i) v[i] *= scale_[i];
    return host_space::dot(n_, v.data(), v.data());
  };
  std::vector<double> top(static_cast<std::size_t>(k)), product(top.size());
  const double quotient = power_method(top, [&](std::vector<double>& z) {
    std::fill(product.begin(), product.end(), 0.0);
    for (index j = 0; j < k; ++j) {
      host_space::axpby(k - j, z[j], &core[j * k + j], 1.0, &product[j]);
      product[j] += host_space::dot(k - j - 1, &core[j * k + j] + 1, z.data() + j + 1);
    }
    std::swap(z, product);
  });
  curvature_max_ = (quotient - nu) / square(top);
  std::vector<double> l = core;
  if (!cholesky_decompose(k, l.data(), n_threads_)) {
    const small_cholesky why(k, std::move(core), 0.0);
    if (why.positive()) return false;  // by a rounding error
    verdict_ = definiteness::indefinite;
    curvature_min_ = (why.curvature() - nu) / square(why.direction());
    return false;
  }

  basis_.resize(static_cast<std::size_t>(n_ * k));
  for (index j = 0; j < k; ++j)
    for (index i = 0; i < n_; ++i)
      basis_[j * n_ + i] = pairs_[(2 * j + 1) * n_ + i] + nu * pairs_[2 * j * n_ + i];
  cholesky_divide(k, l.data(), basis_.data(), n_, n_, n_threads_);
  factor_ = cholesky_qr(n_, k, basis_.data(), n_, n_threads_);
  if (factor_.empty()) return false;
  smallest_ = extreme(true);
  largest_ = extreme(false);
  return std::isfinite(largest_) && smallest_ > 0.0;
}

/// w ← M⁻¹ w = L⁻¹ L⁻ᵀ w.
void nystrom_preconditioner::divide(double* w) const {
  const index k = rank_;
  const double* l = factor_.data();
  for (index j = k - 1; j >= 0; --j) {
    for (index i = j + 1; i < k; ++i) w[j] -= l[j * k + i] * w[i];
    w[j] /= l[j * k + j];
  }
  for (index j = 0; j < k; ++j) {
    w[j] /= l[j * k + j];
    for (index i = j + 1; i < k; ++i) w[i] -= l[j * k + i] * w[j];
  }
}

/// An extreme eigenvalue of M = LᵀL, by the power method on M or M⁻¹, from inside the spectrum.
double nystrom_preconditioner::extreme(bool smallest) const {
  const index k = rank_;
  std::vector<double> v(static_cast<std::size_t>(k)), w(v.size());
  if (smallest) return 1.0 / power_method(v, [&](std::vector<double>& z) { divide(z.data()); });
  return power_method(v, [&](std::vector<double>& z) {
    const double* l = factor_.data();
    std::fill(w.begin(), w.end(), 0.0);
    for (index j = 0; j < k; ++j) host_space::axpby(k - j, z[j], l + j * k + j, 1.0, &w[j]);
    for (index j = 0; j < k; ++j) z[j] = host_space::dot(k - j, l + j * k + j, &w[j]);
  });
}

void nystrom_preconditioner::apply(const_block v, block out) const {
  constexpr index chunk = 4096;
  const index k = rank_, chunks = (n_ + chunk - 1) / chunk;
  const int threads = n_ * k < 1 << 17 ? 1 : n_threads_;
  std::vector<double> scaled(static_cast<std::size_t>(n_)), w(static_cast<std::size_t>(k)), rest;
  for (index c = 0; c < v.cols; ++c) {
    for (index i = 0; i < n_; ++i) scaled[i] = scale_[i] * v.col(c)[i];
    parallel_for(k, threads, [&](index j, int) {
      w[j] = host_space::dot(n_, basis_.data() + j * n_, scaled.data());
    });
    // M⁻¹ w − w/c, to be spread over Q
    rest = w;
    if (k > 0) divide(w.data());
    for (index j = 0; j < k; ++j) w[j] -= rest[j] / smallest_;
    const double complement = k > 0 ? 1.0 / smallest_ : 1.0;
    parallel_for(chunks, threads, [&](index b, int) {
      const index begin = b * chunk, size = std::min(chunk, n_ - begin);
      double* x = out.col(c) + begin;
      for (index i = 0; i < size; ++i) x[i] = complement * scaled[begin + i];
      for (index j = 0; j < k; ++j)
        host_space::axpby(size, w[j], basis_.data() + j * n_ + begin, 1.0, x);
      for (index i = 0; i < size; ++i) x[i] *= scale_[begin + i];
    });
  }
}

}  // namespace implicitgrad
