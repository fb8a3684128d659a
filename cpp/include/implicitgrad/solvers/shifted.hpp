// A + δI: a damped Hessian.
#pragma once

#include <memory>
#include <utility>

#include "implicitgrad/operator.hpp"

namespace implicitgrad {

class shifted_operator : public Operator {
 public:
  shifted_operator(std::shared_ptr<const Operator> a, double shift)
      : a_(std::move(a)), shift_(shift) {}

  index size() const override { return a_->size(); }
  double shift() const { return shift_; }
  void apply(const_block v, block out) const override {
    a_->apply(v, out);
    for (index i = 0; i < v.size(); ++i) out.data[i] += shift_ * v.data[i];
  }
  bool diagonal(double* out) const override {
    if (!a_->diagonal(out)) return false;
    for (index i = 0; i < size(); ++i) out[i] += shift_;
    return true;
  }
  block_structure blocks() const override { return a_->blocks(); }
  void dense(double* out) const override {
    a_->dense(out);
    const index q = order();
    for (index b = 0; b < blocks().count; ++b)
      for (index i = 0; i < q; ++i) out[(b * q + i) * q + i] += shift_;
  }
  index dense_products() const override { return a_->dense_products(); }
  int n_threads() const override { return a_->n_threads(); }

 private:
  std::shared_ptr<const Operator> a_;
  double shift_;
};

}  // namespace implicitgrad
