// The rules' derivatives against differences and each other; what a sweep remembers, counted; and
// that a budget changes nothing else.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "implicitgrad/unroll.hpp"
#include "support.hpp"

namespace implicitgrad::testing {

namespace {

struct named_rule {
  const char* name;
  std::shared_ptr<const StepRule> rule;
};

std::vector<named_rule> rules(double rate = 0.1) {
  return {{"gd", make_descent(rate, 0.0)},
          {"momentum", make_descent(rate, 0.7)},
          {"adam", make_adam(rate, 0.9, 0.99, 1e-3)}};
}

/// f = ½ θᵀAθ + ¼ Σ θ_i⁴ − θᵀλ, which counts its linearisations that are alive.
class quartic : public Objective {
 public:
  explicit quartic(index n) : n_(n), a_(n, std::vector<double>(static_cast<std::size_t>(n * n))) {
    std::vector<double> entries(static_cast<std::size_t>(n * n), 0.1);
    for (index i = 0; i < n; ++i) entries[i * n + i] = 1.0 + 0.3 * static_cast<double>(i);
    a_ = dense_operator(n, entries);
  }

  index n_theta() const override { return n_; }
  index n_lam() const override { return n_; }
  std::shared_ptr<const Linearization> linearize(const double* theta,
                                                 const double* lam) const override;

  mutable index alive = 0, most_alive = 0, made = 0;

 private:
  friend class quartic_at;
  index n_;
  dense_operator a_;
};

class quartic_at : public CrossLinearization {
 public:
  quartic_at(const quartic& f, const double* theta, const double* lam)
      : f_(f), theta_(theta, theta + f.n_), jac_(theta_.size()), jac_lam_(theta_.size()) {
    ++f.made;
    f.most_alive = std::max(f.most_alive, ++f.alive);
    f.a_.apply(column(theta_), column(jac_));
    for (index i = 0; i < f.n_; ++i) {
      const double t = theta_[i];
      fun_ += 0.5 * t * jac_[i] + 0.25 * t * t * t * t - t * lam[i];
      jac_[i] += t * t * t - lam[i];
      jac_lam_[i] = -t;
    }
  }
  ~quartic_at() override { --f_.alive; }
  quartic_at(const quartic_at&) = delete;
  quartic_at& operator=(const quartic_at&) = delete;

  double fun() const override { return fun_; }
  const std::vector<double>& jac() const override { return jac_; }
  const std::vector<double>& jac_lam() const override { return jac_lam_; }
  const Operator& hess() const override { return hess_; }
  void cross(const_block u, block out) const override {
    for (index i = 0; i < u.size(); ++i) out.data[i] = -u.data[i];
  }
  void cross_transpose(const_block q, block out) const override { cross(q, out); }
  double bytes() const override { return 1000.0; }

 private:
  class hessian : public Operator {
   public:
    explicit hessian(const quartic_at& at) : at_(at) {}
    index size() const override { return at_.f_.n_; }
    void apply(const_block v, block out) const override {
      at_.f_.a_.apply(v, out);
      for (index c = 0; c < v.cols; ++c)
        for (index i = 0; i < v.rows; ++i)
          out.col(c)[i] += 3.0 * at_.theta_[i] * at_.theta_[i] * v.col(c)[i];
    }

   private:
    const quartic_at& at_;
  };

  const quartic& f_;
  std::vector<double> theta_, jac_, jac_lam_;
  double fun_ = 0.0;
  hessian hess_{*this};
};

std::shared_ptr<const Linearization> quartic::linearize(const double* theta,
                                                        const double* lam) const {
  return std::make_shared<const quartic_at>(*this, theta, lam);
}

constexpr index n = 5;
const std::vector<double> start{0.3, -0.2, 0.5, 0.1, -0.7}, lam{0.4, 0.1, -0.3, 0.8, -0.2};

unroll_report run(const quartic& f, const StepRule& rule, const unroll_options& options) {
  const quartic g(n);
  return unroll(f, g, rule, start.data(), lam.data(), options);
}

}  // namespace

TEST_CASE("a rule's derivatives are those of its step, forward and back") {
  random_source random(3);
  for (const auto& [name, rule] : rules()) {
    CAPTURE(name);
    const index slots = rule->slots(), t = 3;
    const std::vector<double> gradient = random.vector(n), gradient_dot = random.vector(n);
    std::vector<double> memory = random.vector(n * slots);
    for (double& m : memory) m = std::abs(m);  // Adam's mean square has no sign
    const std::vector<double> memory_dot = random.vector(n * slots);
    const auto as_memory = [&](std::vector<double>& v) { return block{v.data(), n, slots}; };

    // Central differences of (step, memory after it) along (gradient_dot, memory_dot).
    const auto moved = [&](double h) {
      std::vector<double> at = memory, slope = gradient, out(n);
      for (index i = 0; i < n * slots; ++i) at[i] += h * memory_dot[i];
      for (index i = 0; i < n; ++i) slope[i] += h * gradient_dot[i];
      rule->step(t, slope.data(), as_memory(at), out.data());
      out.insert(out.end(), at.begin(), at.end());
      return out;
    };
    constexpr double h = 1e-5;
    const std::vector<double> ahead = moved(h), behind = moved(-h), here = moved(0.0);

    std::vector<double> after(here.begin() + n, here.end()), after_dot = memory_dot, step_dot(n);
    rule->push(t, gradient.data(), as_memory(after), gradient_dot.data(), 0.0, as_memory(after_dot),
               step_dot.data());
    std::vector<double> tangent = step_dot;
    tangent.insert(tangent.end(), after_dot.begin(), after_dot.end());
    for (std::size_t i = 0; i < tangent.size(); ++i)
      CHECK(tangent[i] == doctest::Approx((ahead[i] - behind[i]) / (2 * h)).epsilon(1e-7));

    // The adjoint: ⟨x̄, −step˙⟩ + ⟨memory bar, memory˙ after⟩ is the same from the other side.
    const std::vector<double> x_bar = random.vector(n);
    std::vector<double> memory_bar = random.vector(n * slots), gradient_bar(n);
    double from = 0.0, to = 0.0;
    for (index i = 0; i < n; ++i) from -= x_bar[i] * step_dot[i];
    for (index i = 0; i < n * slots; ++i) from += memory_bar[i] * after_dot[i];
    rule->pull(t, gradient.data(), as_memory(after), x_bar.data(), as_memory(memory_bar),
               gradient_bar.data());
    for (index i = 0; i < n; ++i) to += gradient_bar[i] * gradient_dot[i];
    for (index i = 0; i < n * slots; ++i) to += memory_bar[i] * memory_dot[i];
    CHECK(to == doctest::Approx(from).epsilon(1e-13));
  }
}

TEST_CASE("reverse and forward agree, and with differences of training in its rate and start") {
  const quartic f(n);
  for (std::size_t r = 0; r < 3; ++r) {
    const auto [name, rule] = rules()[r];
    CAPTURE(name);
    const unroll_report back = run(f, *rule, {12, 12, false, 1e6});
    const unroll_report along = run(f, *rule, {12, 12, true, 0.0});
    CHECK(back.status == unroll_status::finished);
    CHECK(largest_difference(back.grad, {along.grad.begin(), along.grad.end()}) <= 1e-14);
    CHECK(back.grad_rate == doctest::Approx(along.grad_rate).epsilon(1e-12));
    CHECK(along.grad_theta0.empty());
    constexpr double h = 1e-6;
    const double ahead = run(f, *rules(0.1 + h)[r].rule, {12, 12, false, 1e6}).fun,
                 behind = run(f, *rules(0.1 - h)[r].rule, {12, 12, false, 1e6}).fun;
    CHECK(back.grad_rate == doctest::Approx((ahead - behind) / (2 * h)).epsilon(1e-6));
  }
}

TEST_CASE("a segment takes what the budget allows, and no more") {
  for (const index steps : {1, 2, 7, 100, 1000})
    for (const double checkpoint : {8.0, 100.0, 5000.0})
      for (const double record : {50.0, 1000.0})
        for (const double memory : {1.0, 500.0, 1e4, 1e5, 1e7}) {
          const index s = segment_length(steps, checkpoint, record, memory);
          const auto needs = [&](index length) {
            const auto starts = static_cast<double>((steps + length - 1) / length);
            return starts * checkpoint + static_cast<double>(length) * record;
          };
          double least = needs(1);
          for (index length = 2; length <= steps; ++length) least = std::min(least, needs(length));
          CAPTURE(steps);
          CAPTURE(checkpoint);
          CAPTURE(record);
          CAPTURE(memory);
          CAPTURE(s);
          REQUIRE(s >= 1);
          REQUIRE(s <= steps);
          CHECK(needs(s) <= std::max(memory, 2.0 * least));
          if (needs(steps) <= memory) CHECK(s == steps);
        }
}

TEST_CASE("so many linearisations are alive at once, and so many are made") {
  constexpr index steps = 100;
  for (const auto& [name, rule] : rules()) {
    const unroll_report all = run(quartic(n), *rule, {steps, steps, false, 1e9});
    CHECK(all.segment == steps);
    for (const double memory : {1.0, 2e4, 5e4, 9e4, 1e9}) {
      const quartic f(n);
      const unroll_report found = run(f, *rule, {steps, steps, false, memory});
      CAPTURE(name);
      CAPTURE(memory);
      CAPTURE(found.segment);
      // Beside the tape: the one before, for the curvature along the step, and the one at hand.
      CHECK(f.most_alive <= found.segment + 2);
      CHECK(f.alive == 0);
      CHECK(f.made == found.linearizations);
      CHECK(found.linearizations == steps + 1 + (steps - found.segment));
      CHECK(found.products == steps);
      CHECK(same_bits(found.grad, all.grad));
      CHECK(same_bits(found.grad_theta0, all.grad_theta0));
      CHECK(found.grad_rate == all.grad_rate);
    }
    const quartic f(n);
    run(f, *rule, {steps, steps, true, 0.0});
    CHECK(f.most_alive <= 3);
    CHECK(f.made == steps + 1);
    // Truncated: memory of the last steps only.
    const quartic cut(n);
    const unroll_report part = run(cut, *rule, {steps, 10, false, 1e9});
    CHECK(cut.most_alive <= 12);
    CHECK(part.products == 10);
    CHECK(part.grad_theta0.empty());
    CHECK(same_bits(part.theta, all.theta));
  }
}

TEST_CASE("steps that are too long are told") {
  const quartic f(n);
  CHECK(run(f, *make_descent(0.76, 0.0), {20, 20, false, 1e9}).status == unroll_status::diverged);
  const unroll_report lost = run(f, *make_descent(5.0, 0.0), {400, 400, false, 1e9});
  CHECK(lost.status == unroll_status::non_finite);
  CHECK(lost.steps < 400);
  CHECK(
      std::all_of(lost.theta.begin(), lost.theta.end(), [](double x) { return std::isfinite(x); }));
}

}  // namespace implicitgrad::testing
