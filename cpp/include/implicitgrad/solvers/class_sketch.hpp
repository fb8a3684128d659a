// The Hessian of multinomial logistic regression, preconditioned class by class.
//
// θ has one entry for each of K classes and each of q columns r of [X 1], by columns of [X 1]. What
// it adds up to over the classes, V1, decouples from the rest: the data term neither sees nor
// creates it, and the strengths are shared by the classes. There H is diag(strength), and is
// inverted as such; on the complement, V1 = 0, it is approximated by its diagonal blocks
//
//   H_aa = Σ_i w_i p_ia (1 − p_ia) r_i r_iᵀ + diag(strength),
//
// each sketched like the Hessian of a linear model. With Π for taking the mean over classes off,
// Π diag(H_aa)⁻¹ Π keeps CG in the complement that ∇f lies in, so that the directions in which the
// blocks are far off (they are up to K/(K − 1) too small and, without the coupling, far too large)
// are never met: what is left is how evenly the classes are confused with one another.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "implicitgrad/solvers/hessian_sketch.hpp"
#include "implicitgrad/solvers/jacobi.hpp"

namespace implicitgrad {

/// Takes the mean off each run of `classes` entries.
void centre_classes(index classes, block v);

/// 1 / strength, one a column of [X 1], from those of the first entries of θ. Elsewhere the
/// strength is zero, and the mean over classes does not matter to H: it counts as the largest
/// there.
std::vector<double> inverse_of_means(index classes, index size,
                                     const std::vector<double>& strength);

/// out = Π M Π v + what the inverse strengths make of the mean of v over the classes.
template <class M>
void apply_centred(index classes, const std::vector<double>& inverse, M&& m, const_block v,
                   block out) {
  std::vector<double> centred(v.data, v.data + v.size());
  centre_classes(classes, {centred.data(), v.rows, v.cols});
  m(const_block{centred.data(), v.rows, v.cols}, out);
  centre_classes(classes, out);
  const auto q = static_cast<index>(inverse.size());
  for (index i = 0; i < v.size(); i += classes) {
    // v less what is centred is its mean.
    const double mean = (v.data[i] - centred[i]) * inverse[i / classes % q];
    for (index a = 0; a < classes; ++a) out.data[i + a] += mean;
  }
}

/// The same with the diagonal of H in the place of its blocks.
class centred_jacobi : public Operator {
 public:
  centred_jacobi(jacobi_preconditioner inner, index classes, const std::vector<double>& strength)
      : inner_(std::move(inner)),
        classes_(classes),
        inverse_(inverse_of_means(classes, inner_.size(), strength)) {}

  index size() const override { return inner_.size(); }
  void apply(const_block v, block out) const override {
    const auto inner = [&](const_block in, block to) { inner_.apply(in, to); };
    apply_centred(classes_, inverse_, inner, v, out);
  }

 private:
  jacobi_preconditioner inner_;
  index classes_;
  std::vector<double> inverse_;
};

/// Those blocks, each with rows sampled for its own weights.
class class_sketch : public HessianSketch {
 public:
  /// d holds w ∘ p ∘ (1 − p), a column a class. Cost: of a sketch, a class.
  class_sketch(const std::shared_ptr<const Matrix>& x, bool intercept, const_block d, index rows,
               std::uint64_t seed, int n_threads);

  void factor(const std::vector<double>& strength) override;
  std::unique_ptr<HessianSketch> copy() const override;
  index size() const override { return blocks_.front()->size() * classes(); }
  void apply(const_block v, block out) const override;

  /// The blocks are H's own, so that their eigenvalues lie between its extreme ones.
  double curvature_min() const override;
  double curvature_max() const override;
  bool exact() const override { return blocks_.front()->exact(); }
  bool complete() const override { return false; }

 private:
  class_sketch() = default;  // for `copy`
  index classes() const { return static_cast<index>(blocks_.size()); }

  std::vector<std::unique_ptr<HessianSketch>> blocks_;
  std::vector<double> inverse_;
};

}  // namespace implicitgrad
