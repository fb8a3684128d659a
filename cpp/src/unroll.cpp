#include "implicitgrad/unroll.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"

namespace implicitgrad {

namespace {

using linearization = std::shared_ptr<const CrossLinearization>;
using vector = std::vector<double>;

index length(const vector& v) { return static_cast<index>(v.size()); }
double dot(const vector& a, const vector& b) {
  return host_space::dot(length(a), a.data(), b.data());
}
double norm(const vector& v) { return host_space::norm(length(v), v.data()); }
bool finite(const vector& v) {
  return std::all_of(v.begin(), v.end(), [](double x) { return std::isfinite(x); });
}

vector zeros(index n) { return vector(static_cast<std::size_t>(n)); }

/// Where training stands after t steps: what it takes to go on from there.
struct checkpoint {
  vector theta, memory;
  index t = 0;
};

/// What the derivative of a step needs: f before it, and the rule's memory after it.
struct record {
  linearization at;
  vector memory;
  index t = 0;
};

linearization linearize(const Objective& f, const vector& theta, const double* lam) {
  auto at = std::dynamic_pointer_cast<const CrossLinearization>(f.glance(theta.data(), lam));
  require(at != nullptr, "the objective has no derivatives in lam");
  return at;
}

// Beside θ, and beside f, a step is no more than rounding where it is less than
constexpr double of_theta = 1e-5, of_f = 1e-12;

// A cycle has just the curvature that the rule bears; what is met falls short of it by rounding.
constexpr double cycle = 0.999;

/// The training of f, step by step, and what it sees of H on its way.
class training {
 public:
  training(const Objective& f, const StepRule& rule, const double* lam, index steps,
           unroll_report& report)
      : f_(f), rule_(rule), lam_(lam), steps_(steps), report_(report), step_(zeros(size())) {}

  index size() const { return f_.n_theta(); }
  index memory_size() const { return size() * rule_.slots(); }
  block memory_of(vector& v) const { return {v.data(), size(), rule_.slots()}; }
  const_block memory_of(const vector& v) const { return {v.data(), size(), rule_.slots()}; }

  linearization look(const checkpoint& here) {
    poll_interrupt();
    ++report_.linearizations;
    linearization at = linearize(f_, here.theta, lam_);
    if (here.t > reached_) see(here, at);
    return at;
  }

  /// One step from `here`, which stays where it is, and null is returned, if that meets a value
  /// that is not finite.
  record advance(checkpoint& here) {
    linearization at = look(here);
    checkpoint next = here;
    ++next.t;
    rule_.step(next.t, at->jac().data(), memory_of(next.memory), step_.data());
    for (index i = 0; i < size(); ++i) next.theta[i] -= step_[i];
    if (!std::isfinite(at->fun()) || !finite(at->jac()) || !finite(next.theta)) return {};
    here = std::move(next);
    return {std::move(at), here.memory, here.t};
  }

  /// Steps until t = `until`, with a record of each on the tape, if there is one; whether that met
  /// finite values only.
  bool run(checkpoint& here, index until, std::vector<record>* tape = nullptr) {
    while (here.t < until) {
      record step = advance(here);
      if (!step.at) return false;
      if (tape) tape->push_back(std::move(step));
    }
    return true;
  }

  /// Takes note of a curvature vᵀHv / vᵀv that was met at step t. Returns whether that is one of
  /// steps that diverge or cycle: at least what the rule bears, but for rounding, and later than
  /// half way, as what is met before says little of where they lead.
  bool see_curvature(double vhv, double vv, index t) {
    const double curvature = vv > 0.0 ? vhv / vv : 0.0;
    if (vv > 0.0 && std::isfinite(curvature)) {
      report_.curvature_min = std::min(report_.curvature_min, curvature);
      report_.curvature_max = std::max(report_.curvature_max, curvature);
    }
    return 2 * t > steps_ && curvature >= cycle * rule_.most_curvature();
  }

  /// Steps that told so: the parabola through their ends does not fall.
  index rises() const { return rises_; }

 private:
  /// What the gradient after a step s says of the mean curvature along it: κ = sᵀ(∇ − ∇ after) /
  /// sᵀs. A step that is next to nothing beside θ says nothing but rounding, and so does one of
  /// which the curvature moves f by next to nothing, ½ κ sᵀs, beside the largest f so far: where θ⋆
  /// is zero, no step is small beside θ. (What f rises by is no measure: in a cycle that is
  /// nothing.)
  void see(const checkpoint& here, const linearization& at) {
    largest_ = std::max(largest_, std::abs(at->fun()));
    if (before_ && norm(step_) > of_theta * norm(here.theta)) {
      double change = 0.0;
      for (index i = 0; i < size(); ++i) change += step_[i] * (before_->jac()[i] - at->jac()[i]);
      if (0.5 * std::abs(change) > of_f * largest_)
        rises_ += see_curvature(change, dot(step_, step_), here.t);
    }
    before_ = at;
    reached_ = here.t;
  }

  const Objective& f_;
  const StepRule& rule_;
  const double* lam_;
  index steps_;
  unroll_report& report_;
  vector step_;
  linearization before_;
  double largest_ = 0.0;
  index reached_ = -1, rises_ = 0;
};

/// The adjoints of θ, the rule's memory, λ and α, carried back step by step.
class adjoints {
 public:
  adjoints(training& path, const StepRule& rule, const vector& outer, index n_lam, index middle)
      : path_(path),
        rule_(rule),
        middle_(middle),
        at_end_(norm(outer)),
        at_middle_(at_end_),
        theta_(outer),
        memory_(zeros(path.memory_size())),
        gradient_(zeros(path.size())),
        hv_(zeros(path.size())),
        lam_(zeros(n_lam)),
        cv_(zeros(n_lam)) {}

  /// Over one step: with ∇̄ from the rule, θ̄ += H ∇̄ and λ̄ += Cᵀ∇̄. False, and nothing more than ∇̄,
  /// where that is not finite.
  bool pull(const record& step) {
    poll_interrupt();
    const index n = path_.size(), m = length(lam_);
    rate_ += rule_.pull(step.t, step.at->jac().data(), path_.memory_of(step.memory), theta_.data(),
                        path_.memory_of(memory_), gradient_.data());
    if (!finite(gradient_)) return false;
    const const_block v{gradient_.data(), n, 1};
    step.at->hess().apply(v, {hv_.data(), n, 1});
    host_space::axpby(n, 1.0, hv_.data(), 1.0, theta_.data());
    unstable_ += path_.see_curvature(dot(gradient_, hv_), dot(gradient_, gradient_), step.t);
    if (m > 0) step.at->cross_transpose(v, {cv_.data(), m, 1});
    host_space::axpby(m, 1.0, cv_.data(), 1.0, lam_.data());
    if (step.t == middle_ + 1) at_middle_ = norm(theta_);
    return true;
  }

  const vector& theta() const { return theta_; }
  const vector& lam() const { return lam_; }
  double rate() const { return rate_; }
  index unstable() const { return unstable_; }        // products that told so
  bool grew() const { return at_middle_ > at_end_; }  // θ̄, over the later half of the steps

 private:
  training& path_;
  const StepRule& rule_;
  index middle_;
  double at_end_, at_middle_;
  vector theta_, memory_, gradient_, hv_, lam_, cv_;
  double rate_ = 0.0;
  index unstable_ = 0;
};

/// The tangents of θ and of the rule's memory along each λ and, last, along α.
class tangents {
 public:
  tangents(training& path, const StepRule& rule, index n_lam, index middle)
      : path_(path),
        rule_(rule),
        m_(n_lam),
        middle_(middle),
        theta_(zeros(path.size() * (m_ + 1))),
        memory_(zeros(path.memory_size() * (m_ + 1))),
        gradient_(theta_),
        cross_(zeros(path.size() * m_)),
        step_(zeros(path.size())),
        unit_(zeros(m_ * m_)) {
    for (index l = 0; l < m_; ++l) unit_[l * m_ + l] = 1.0;
  }

  /// Over one step: ∇̇ = H θ̇ + C λ̇, and then the rule. False, and no step, where θ̇ is not finite.
  bool push(const record& step) {
    if (!finite(theta_)) return false;
    const index n = path_.size(), of_lam = n * m_;
    step.at->hess().apply({theta_.data(), n, m_ + 1}, {gradient_.data(), n, m_ + 1});
    unstable_ += path_.see_curvature(dot(theta_, gradient_), dot(theta_, theta_), step.t);
    if (m_ > 0) step.at->cross({unit_.data(), m_, m_}, {cross_.data(), n, m_});
    host_space::axpby(of_lam, 1.0, cross_.data(), 1.0, gradient_.data());
    double squares = 0.0;
    for (index c = 0; c <= m_; ++c) {
      rule_.push(step.t, step.at->jac().data(), path_.memory_of(step.memory),
                 gradient_.data() + c * n, c == m_ ? 1.0 : 0.0,
                 {memory_.data() + c * path_.memory_size(), n, rule_.slots()}, step_.data());
      host_space::axpby(n, -1.0, step_.data(), 1.0, theta_.data() + c * n);
      squares += dot(step_, step_);
    }
    moved_ = std::sqrt(squares);
    if (step.t <= middle_) moved_before_ = moved_;
    return true;
  }

  /// vᵀθ̇ along λ_c, or along α for c = n_lam.
  double along(const vector& v, index c) const {
    return host_space::dot(path_.size(), v.data(), theta_.data() + c * path_.size());
  }
  index unstable() const { return unstable_; }  // products that told so, all tangents together

  /// The steps of θ̇ over the later half: where H and C are constant, they are what the adjoint is,
  /// multiplied by I − αH each time, while θ̇ itself grows towards −H⁻¹C from zero.
  bool grew() const { return moved_ > moved_before_; }

 private:
  training& path_;
  const StepRule& rule_;
  index m_, middle_;
  double moved_ = 0.0, moved_before_ = 0.0;
  vector theta_, memory_, gradient_, cross_, step_, unit_;
  index unstable_ = 0;
};

}  // namespace

index segment_length(index steps, double checkpoint_bytes, double record_bytes, double memory) {
  const double k = static_cast<double>(steps), c = checkpoint_bytes, r = record_bytes;
  if (c + k * r <= memory) return steps;
  // The larger root of (k / s + 1) c + s r = memory.
  const double half = 0.5 * (memory - c), root = half * half - k * c * r;
  const double s = half > 0.0 && root >= 0.0 ? (half + std::sqrt(root)) / r : std::sqrt(k * c / r);
  return std::clamp<index>(static_cast<index>(s), 1, std::max<index>(steps, 1));
}

namespace {

/// f and g at the end of the steps; returns ∇θg.
vector arrive(training& path, const checkpoint& end, const Objective& g, const double* lam,
              unroll_report& report) {
  report.steps = end.t;
  report.theta = end.theta;
  report.stationarity = norm(path.look(end)->jac());
  const linearization outer = linearize(g, end.theta, lam);
  report.fun = outer->fun();
  if (g.n_lam() > 0) report.direct = outer->jac_lam();
  report.grad = report.direct;
  return outer->jac();
}

/// How the steps that were differentiated went.
struct outcome {
  bool finite;
  bool grew;       // whether the derivatives did, over the later half of those steps
  index unstable;  // products with a curvature that makes them
};

/// The last step of the earlier half of those that are differentiated.
index middle(const unroll_options& options) { return options.steps - options.differentiated / 2; }

/// A single one may be one step that was too long.
constexpr index enough = 2;

outcome reverse(training& path, const StepRule& rule, checkpoint here, bool good,
                const Objective& g, const double* lam, const unroll_options& options,
                unroll_report& report) {
  std::vector<checkpoint> starts{here};
  std::vector<record> tape;
  good = good && path.run(here, here.t + 1, &tape);
  if (good) {
    const double of_memory = 8.0 * static_cast<double>(path.memory_size());
    report.segment =
        segment_length(options.differentiated, 8.0 * static_cast<double>(path.size()) + of_memory,
                       tape.back().at->bytes() + of_memory, options.memory);
  }
  // The first segment is the short one: of all but the last, the steps are repeated.
  const index rest = options.differentiated - 1;
  if (good) good = path.run(here, here.t + rest % report.segment, &tape);
  while (good && here.t < options.steps) {
    starts.push_back(here);
    tape.clear();
    good = path.run(here, here.t + report.segment, &tape);
  }

  const vector outer = arrive(path, here, g, lam, report);
  adjoints bar(path, rule, outer, length(report.direct), middle(options));
  bool carried = true;
  for (;;) {
    for (; carried && !tape.empty(); tape.pop_back(), ++report.products)
      carried = bar.pull(tape.back());
    const index end = starts.back().t;
    starts.pop_back();
    if (!carried || starts.empty()) break;
    checkpoint again = starts.back();
    carried = path.run(again, end, &tape);
  }
  const double lost = carried ? 0.0 : std::numeric_limits<double>::quiet_NaN();
  for (index l = 0; l < length(report.grad); ++l) report.grad[l] += bar.lam()[l] + lost;
  report.grad_rate = bar.rate() + lost;
  if (options.differentiated == options.steps) {
    report.grad_theta0 = bar.theta();
    for (double& x : report.grad_theta0) x += lost;
  }
  return {good && carried, bar.grew(), bar.unstable()};
}

outcome forward(training& path, const StepRule& rule, checkpoint here, bool good,
                const Objective& g, const double* lam, const unroll_options& options,
                unroll_report& report) {
  const index n_lam = length(report.direct);
  tangents moved(path, rule, n_lam, middle(options));
  bool carried = true;
  while (good && carried && here.t < options.steps) {
    const record step = path.advance(here);
    good = step.at != nullptr;
    if (!good) break;
    carried = moved.push(step);
    report.products += n_lam + 1;
  }
  const vector outer = arrive(path, here, g, lam, report);
  for (index l = 0; l < n_lam; ++l) report.grad[l] += moved.along(outer, l);
  report.grad_rate = moved.along(outer, n_lam);
  return {good && carried, moved.grew(), moved.unstable()};
}

}  // namespace

unroll_report unroll(const Objective& f, const Objective& g, const StepRule& rule,
                     const double* theta0, const double* lam, const unroll_options& options) {
  unroll_report report;
  report.direct = zeros(f.n_lam());
  training path(f, rule, lam, options.steps, report);
  checkpoint here{vector(theta0, theta0 + path.size()), zeros(path.memory_size())};
  const bool good = path.run(here, options.steps - options.differentiated);
  const auto sweep = options.forward ? forward : reverse;
  const outcome found = sweep(path, rule, std::move(here), good, g, lam, options, report);
  if (!found.finite || !std::isfinite(report.fun + report.stationarity + report.grad_rate) ||
      !finite(report.grad) || !finite(report.grad_theta0))
    report.status = unroll_status::non_finite;
  else if (path.rises() >= enough || (found.grew && found.unstable >= enough))
    report.status = unroll_status::diverged;
  return report;
}

}  // namespace implicitgrad
