#include "implicitgrad/trainers/step_rule.hpp"

#include <cmath>
#include <limits>

namespace implicitgrad {

namespace {

class descent_rule : public StepRule {
 public:
  descent_rule(double rate, double momentum) : rate_(rate), momentum_(momentum) {}

  index slots() const override { return momentum_ > 0.0 ? 1 : 0; }

  void step(index, const double* gradient, block memory, double* out) const override {
    for (index i = 0; i < memory.rows; ++i) out[i] = rate_ * gradient[i];
    carry(out, memory);
  }

  // v̇ ← μ v̇ + α ∇̇ + α̇ ∇
  void push(index, const double* gradient, const_block, const double* gradient_dot, double rate_dot,
            block memory_dot, double* out_dot) const override {
    for (index i = 0; i < memory_dot.rows; ++i)
      out_dot[i] = rate_ * gradient_dot[i] + rate_dot * gradient[i];
    carry(out_dot, memory_dot);
  }

  // With w = v̄ − x̄:  ∇̄ = α w,  ᾱ = ∇ᵀw,  v̄ ← μ w.
  double pull(index, const double* gradient, const_block, const double* x_bar, block memory_bar,
              double* gradient_bar) const override {
    double rate_bar = 0.0;
    for (index i = 0; i < memory_bar.rows; ++i) {
      const double w = (slots() ? memory_bar.data[i] : 0.0) - x_bar[i];
      gradient_bar[i] = rate_ * w;
      rate_bar += gradient[i] * w;
      if (slots()) memory_bar.data[i] = momentum_ * w;
    }
    return rate_bar;
  }

  double most_curvature() const override { return 2.0 * (1.0 + momentum_) / rate_; }

 private:
  /// out += μ memory; memory = out
  void carry(double* out, block memory) const {
    if (!slots()) return;
    for (index i = 0; i < memory.rows; ++i) memory.data[i] = out[i] += momentum_ * memory.data[i];
  }

  double rate_, momentum_;
};

/// Where s = 0 every gradient so far was zero there (or its square too small to be seen beside ε),
/// and so is m: the step's derivative along s is then zero, and that along m is α / ε as elsewhere.
/// Where s overflows the step is NaN: 0 would pass for one.
class adam_rule : public StepRule {
 public:
  adam_rule(double rate, double beta1, double beta2, double eps)
      : rate_(rate), beta1_(beta1), beta2_(beta2), eps_(eps) {}

  index slots() const override { return 2; }

  void step(index t, const double* gradient, block memory, double* out) const override {
    const corrections at = correct(t);
    double *m = memory.col(0), *s = memory.col(1);
    for (index i = 0; i < memory.rows; ++i) {
      m[i] = beta1_ * m[i] + (1.0 - beta1_) * gradient[i];
      s[i] = beta2_ * s[i] + (1.0 - beta2_) * gradient[i] * gradient[i];
      out[i] = rate_ * (m[i] * at.mean) / (std::sqrt(s[i] * at.square) + eps_);
      if (std::isinf(s[i])) out[i] = std::numeric_limits<double>::quiet_NaN();
    }
  }

  // step˙ = α m̂˙ / d + α̇ m̂ / d − α m̂ ŝ˙ / (2 √ŝ d²),  d = √ŝ + ε
  void push(index t, const double* gradient, const_block memory, const double* gradient_dot,
            double rate_dot, block memory_dot, double* out_dot) const override {
    const corrections at = correct(t);
    const double *m = memory.col(0), *s = memory.col(1);
    double *m_dot = memory_dot.col(0), *s_dot = memory_dot.col(1);
    for (index i = 0; i < memory.rows; ++i) {
      m_dot[i] = beta1_ * m_dot[i] + (1.0 - beta1_) * gradient_dot[i];
      s_dot[i] = beta2_ * s_dot[i] + 2.0 * (1.0 - beta2_) * gradient[i] * gradient_dot[i];
      const double root = std::sqrt(s[i] * at.square), d = root + eps_, unit = m[i] * at.mean / d;
      const double root_dot = root > 0.0 ? s_dot[i] * at.square / (2.0 * root) : 0.0;
      out_dot[i] = rate_dot * unit + rate_ * (m_dot[i] * at.mean - unit * root_dot) / d;
    }
  }

  double pull(index t, const double* gradient, const_block memory, const double* x_bar,
              block memory_bar, double* gradient_bar) const override {
    const corrections at = correct(t);
    const double *m = memory.col(0), *s = memory.col(1);
    double *m_bar = memory_bar.col(0), *s_bar = memory_bar.col(1);
    double rate_bar = 0.0;
    for (index i = 0; i < memory.rows; ++i) {
      const double root = std::sqrt(s[i] * at.square), d = root + eps_, unit = m[i] * at.mean / d;
      rate_bar -= x_bar[i] * unit;
      m_bar[i] -= x_bar[i] * rate_ * at.mean / d;
      if (root > 0.0) s_bar[i] += x_bar[i] * rate_ * unit / d * at.square / (2.0 * root);
      gradient_bar[i] = (1.0 - beta1_) * m_bar[i] + 2.0 * (1.0 - beta2_) * gradient[i] * s_bar[i];
      m_bar[i] *= beta1_;
      s_bar[i] *= beta2_;
    }
    return rate_bar;
  }

  double most_curvature() const override { return std::numeric_limits<double>::infinity(); }

 private:
  struct corrections {
    double mean, square;  // m̂ = mean · m, ŝ = square · s
  };
  corrections correct(index t) const {
    const auto steps = static_cast<double>(t);
    return {1.0 / (1.0 - std::pow(beta1_, steps)), 1.0 / (1.0 - std::pow(beta2_, steps))};
  }

  double rate_, beta1_, beta2_, eps_;
};

}  // namespace

std::shared_ptr<const StepRule> make_descent(double rate, double momentum) {
  return std::make_shared<const descent_rule>(rate, momentum);
}

std::shared_ptr<const StepRule> make_adam(double rate, double beta1, double beta2, double eps) {
  return std::make_shared<const adam_rule>(rate, beta1, beta2, eps);
}

}  // namespace implicitgrad
