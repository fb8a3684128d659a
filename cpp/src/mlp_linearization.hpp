// One network linearised; mlp.cpp has the passes that build it, mlp_products.cpp those of its
// products, mlp_curvature.cpp those of its Kronecker factors.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "implicitgrad/blas.hpp"
#include "implicitgrad/dense_matrix.hpp"
#include "implicitgrad/mlp.hpp"
#include "implicitgrad/parallel.hpp"
#include "kernels/layers.hpp"

namespace implicitgrad {

/// rows × width entries without gaps; not initialised.
template <class T>
class panel {
 public:
  panel() = default;
  panel(index rows, index width)
      : width_(width),
        data_(std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(rows * width))) {}
  /// From a row on.
  T* from(index row) const { return data_.get() + row * width_; }
  gemm_operand<T> operand(index row) const { return {from(row), width_}; }
  index width() const { return width_; }

 private:
  index width_ = 0;
  std::unique_ptr<T[]> data_;
};

/// What a product needs besides the result: RZ_l, RA_l and RG_l of a block of rows (RG_L takes the
/// place of RZ_L); for float, the direction and the weights' sums of a block as float.
template <class T>
struct mlp_workspace {
  std::vector<panel<T>> rz, ra, rg;
  std::vector<T> direction, sums;
  std::vector<double> unused;  // sums that nobody asks for
};

/// Workspaces that wait for the next product: fresh memory would cost a page fault every 4 KB.
template <class T>
class workspace_pool {
 public:
  std::unique_ptr<mlp_workspace<T>> take() const {
    const std::lock_guard lock(mutex_);
    if (free_.empty()) return std::make_unique<mlp_workspace<T>>();
    auto last = std::move(free_.back());
    free_.pop_back();
    return last;
  }
  void give(std::unique_ptr<mlp_workspace<T>> workspace) const {
    const std::lock_guard lock(mutex_);
    free_.push_back(std::move(workspace));
  }

 private:
  mutable std::mutex mutex_;
  mutable std::vector<std::unique_ptr<mlp_workspace<T>>> free_;
};

/// The data of one objective and how to compute on it.
template <class T>
struct mlp_data {
  std::shared_ptr<const mlp_architecture> architecture;
  std::shared_ptr<const Matrix> owner;
  const dense_matrix<T>* x;
  std::vector<double> y, weights;
  kernels::activation_kernels<T> activation;
  kernels::loss_kernels<T> loss;
  int n_threads;
  row_blocks blocks;
  workspace_pool<T> workspaces{};

  /// Rows [begin, …) of X as an operand.
  gemm_operand<T> rows_of_x(index begin) const {
    const bool row_major = x->order() == layout::row_major;
    return {x->data() + (row_major ? begin * x->ld() : begin), x->ld(), !row_major};
  }
  index outputs() const { return architecture->widths.back(); }
  const double* targets(index begin) const {
    return y.data() + (loss.labels ? begin : begin * outputs());
  }
};

template <class T>
class weight_sums;

template <class T>
class mlp_linearization : public NetworkLinearization {
 public:
  mlp_linearization(std::shared_ptr<const mlp_data<T>> data, const double* theta,
                    const double* lam);
  mlp_linearization(const mlp_linearization&) = delete;
  mlp_linearization& operator=(const mlp_linearization&) = delete;

  double fun() const override { return fun_; }
  const std::vector<double>& jac() const override { return jac_; }
  const std::vector<double>& jac_lam() const override { return penalty_.jac_lam(); }
  const Operator& hess() const override { return hess_; }
  const Operator& system() const override { return system_; }
  const Operator* gauss_newton() const override { return &gauss_newton_; }
  std::optional<kronecker_curvature> kronecker() const override;
  void cross(const_block u, block out) const override {
    for (index c = 0; c < u.cols; ++c) penalty_.cross(u.col(c), out.col(c));
  }
  void cross_transpose(const_block q, block out) const override {
    for (index c = 0; c < q.cols; ++c) penalty_.cross_transpose(q.col(c), out.col(c));
  }
  double bytes() const override;
  double cross_scale(const double* q) const override { return penalty_.cross_scale(q); }
  std::vector<double> gradient_terms(bool by_row) const override;
  solve_costs costs(double nats) const override;
  std::unique_ptr<NetworkRows> loss_rows() const override;

 private:
  template <class>
  friend class mlp_rows;
  enum class curvature { exact, gauss_newton };

  /// H, or its Gauss-Newton approximation; `gauged` with curvature along the direction that adds a
  /// constant to all outputs of a softmax: its bias may, as nothing penalises it.
  class product : public Operator {
   public:
    product(const mlp_linearization& at, curvature kind, bool gauged)
        : at_(at), kind_(kind), gauged_(gauged) {}
    index size() const override { return at_.architecture().n_theta; }
    void apply(const_block v, block out) const override;
    int n_threads() const override { return at_.data_->n_threads; }

   private:
    const mlp_linearization& at_;
    curvature kind_;
    bool gauged_;
  };

  const mlp_architecture& architecture() const { return *data_->architecture; }

  /// Weights (and biases) as T, which are θ itself or a copy.
  const T* parameters() const;

  /// A_l from a row on.
  gemm_operand<T> activations(index l, index row) const {
    return l == 0 ? data_->rows_of_x(row) : activations_[l].operand(row);
  }

  /// φ' of a layer from a row on, where it is kept.
  T* slope(index l, index row) const {
    return data_->activation.keeps_slope ? slopes_[l].from(row) : nullptr;
  }
  const T* probabilities(index row) const {
    return data_->loss.keeps_probabilities ? probabilities_.from(row) : nullptr;
  }

  void linearize();
  void apply(const double* v, double* out, curvature kind) const;
  void apply(const double* v, double* out, curvature kind, mlp_workspace<T>& work) const;

  // The passes of one block of rows, along v and, unless that is null, along rx, an RX without
  // gaps.

  void make_room(mlp_workspace<T>& work) const;
  /// v as T.
  const T* direction(const double* v, mlp_workspace<T>& work) const;
  /// RZ_l into work.rz, RA_l into work.ra; RZ_L without the bias's share u_L.
  void r_forward(index begin, index rows, const T* v, const T* rx, mlp_workspace<T>& work) const;
  /// RG_l into work.rg, of an RG_L in rz[L], where deltas[l] are the G_l from row `from` on;
  /// without the terms that contain G where v is null. The block's part of the result goes to
  /// `sums`, unless that is null, but for the last layer's biases.
  void r_backward(index begin, index rows, const T* v, const T* rx,
                  const std::vector<panel<T>>& deltas, index from, weight_sums<T>* sums,
                  mlp_workspace<T>& work) const;

  std::shared_ptr<const mlp_data<T>> data_;
  l2_term penalty_;
  double fun_ = 0.0, gauge_ = 0.0;
  std::vector<double> jac_;
  std::vector<T> narrow_;  // θ as T, where that is not double
  // By layer; those of layer 0 are empty.
  std::vector<panel<T>> activations_, slopes_, deltas_;
  panel<T> probabilities_;
  product hess_{*this, curvature::exact, false};
  product system_{*this, curvature::exact, true};
  product gauss_newton_{*this, curvature::gauss_newton, true};
};

/// body(begin, count, sums) for chunks of the rows [0, rows) of a panel, in parallel where they are
/// many entries; `sums` are `width` sums of that chunk, which are added to `total`, unless that is
/// null, in the order of the chunks.
template <class Body>
void for_chunks(index rows, index width, int n_threads, double* total, Body&& body) {
  constexpr index chunk = 64, few = index{1} << 15;  // a thread would cost more than it gives
  const index chunks = (rows + chunk - 1) / chunk;
  std::vector<double> sums(total ? static_cast<std::size_t>(chunks * width) : 0, 0.0);
  parallel_for(chunks, rows * width < few ? 1 : n_threads, [&](index i, int) {
    body(i * chunk, std::min(chunk, rows - i * chunk), total ? sums.data() + i * width : nullptr);
  });
  if (!total) return;
  for (index i = 0; i < chunks; ++i)
    for (index j = 0; j < width; ++j) total[j] += sums[i * width + j];
}

/// Adds up products over row blocks in double: in place by the BLAS for double, by way of a buffer
/// for float.
template <class T>
class weight_sums {
 public:
  weight_sums(double* out, std::vector<T>& buffer, const mlp_architecture& architecture);

  /// The weights of layer l get the product A B, of a block's first (`fresh`) or further terms.
  void add(index l, gemm_operand<T> a, gemm_operand<T> b, index rows, bool fresh);

  /// After a block.
  void flush();

  double* biases(index l) { return out_ + architecture_.layers[l].biases; }

 private:
  double* out_;
  std::vector<T>& buffer_;
  const mlp_architecture& architecture_;
  bool first_ = true;
};

extern template class mlp_linearization<double>;
extern template class mlp_linearization<float>;

}  // namespace implicitgrad
