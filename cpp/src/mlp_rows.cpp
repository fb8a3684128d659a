// Rows of a network: with g_l the derivatives of ℓ_i in row i of Z_l (G_l without the c_i of f),
//
//   ∇θℓ_iᵀq = g_L · RZ_L, along q;                 Σ_i u_i ∇θℓ_i: the backward pass of u_i g_L;
//   ∂ℓ_i/∂x_i = g_1 W_1ᵀ;                         ∂/∂x_i (∇θℓ_iᵀq) = RG_1 W_1ᵀ + g_1 V_1ᵀ, along q;
//   Σ_i ∂²ℓ_i/∂θ∂x_i u_i: the R-passes along RX = U with θ at rest.
//
// Only g_L is kept: where the other g_l are needed, a backward pass of the block makes them.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <span>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/runtime.hpp"
#include "mlp_linearization.hpp"

namespace implicitgrad {

template <class T>
class mlp_rows : public NetworkRows {
 public:
  explicit mlp_rows(const mlp_linearization<T>& at)
      : at_(at), d_(*at.data_), ones_(static_cast<std::size_t>(rows()), 1.0) {
    evaluate();
  }

  index rows() const override { return d_.x->rows(); }
  index inputs() const override { return d_.x->cols(); }
  void values(double* out) const override { std::copy(values_.begin(), values_.end(), out); }

  void products(const_block q, block out) const override {
    outputs_along(q, [&](index column, index i, const T* rz, const T* shift) {
      const T* g = slopes_.from(i);
      double sum = 0.0;
      for (index j = 0; j < last().out; ++j)
        sum += static_cast<double>(g[j]) * static_cast<double>(rz[j] + shift[j]);
      out.col(column)[i] = sum;
    });
  }

  void sum(const double* u, double* out) const override {
    back(out, [&](index i, index j) { return u[i] * static_cast<double>(slopes_.from(i)[j]); });
  }

  void norms(double* out) const override {
    const index depth = this->depth(), panel_rows = d_.x->panel_rows();
    each_block([&](index begin, index rows, mlp_workspace<T>& work) {
      const std::vector<panel<T>> g = deltas(begin, rows, work);
      const auto square = [&](const T* row, index width) {
        double sum = 0.0;
        for (index j = 0; j < width; ++j) sum += static_cast<double>(row[j]) * row[j];
        return sum;
      };
      for (index i = 0; i < rows; i += panel_rows)
        d_.x->row_squares(begin + i, begin + std::min(i + panel_rows, rows), out + begin + i);
      for (index i = 0; i < rows; ++i) {
        double sum = (1.0 + out[begin + i]) * square(g[1].from(i), g[1].width());
        for (index l = 2; l <= depth; ++l) {
          const panel<T>& a = at_.activations_[l - 1];
          sum += (1.0 + square(a.from(begin + i), a.width())) * square(g[l].from(i), g[l].width());
        }
        out[begin + i] = std::sqrt(sum);
      }
    });
  }

  // ∂ℓ/∂y is y − z for the squared loss. For the softmax loss it is −z, but for what is common to
  // the outputs, as the shares of a row have a constant sum. Either way ∂(∇θℓᵀq)/∂y = −Rz.

  void target_slopes(double* out) const override {
    require_targets();
    const index width = last().out;
    if (!d_.loss.keeps_probabilities) {
      for (index i = 0; i < rows() * width; ++i) out[i] = -static_cast<double>(slopes_.from(0)[i]);
      return;
    }
    const T* bias = at_.parameters() + last().biases;
    each_block([&](index begin, index count, mlp_workspace<T>& work) {
      const T* z = outputs(begin, count, work.rz.back().from(0));
      for (index i = 0; i < count; ++i, z += width) {
        double* slope = out + (begin + i) * width;
        for (index j = 0; j < width; ++j) slope[j] = static_cast<double>(z[j] + bias[j]);
        const double most = *std::max_element(slope, slope + width);
        for (index j = 0; j < width; ++j) slope[j] = most - slope[j];
      }
    });
  }

  void target_products(const_block q, block out) const override {
    require_targets();
    const index width = last().out;
    outputs_along(q, [&](index column, index i, const T* rz, const T* shift) {
      double* of_row = out.col(column) + i * width;
      for (index j = 0; j < width; ++j) of_row[j] = -static_cast<double>(rz[j] + shift[j]);
    });
  }

  void target_sum(const double* u, double* out) const override {
    require_targets();
    back(out, [&](index i, index j) { return -u[i * last().out + j]; });
  }

  void input_slopes(const std::vector<index>& at, double* out) const override {
    const T* theta = at_.parameters();
    each_block(at,
               [&](index begin, index rows, std::span<const index> some, mlp_workspace<T>& work) {
                 const std::vector<panel<T>> g = deltas(begin, rows, work);
                 const panel<T> x = times_first(g[1], theta, rows, nullptr);
                 for (const index s : some)
                   std::copy_n(x.from(at[s] - begin), inputs(), out + s * inputs());
               });
  }

  void input_products(const std::vector<index>& at, const double* q, double* out) const override {
    const T* theta = at_.parameters();
    each_block(at,
               [&](index begin, index rows, std::span<const index> some, mlp_workspace<T>& work) {
                 const T* v = at_.direction(q, work);
                 const std::vector<panel<T>> g = deltas(begin, rows, work);
                 at_.r_forward(begin, rows, v, nullptr, work);
                 curve_outputs(begin, rows, v + last().biases, work.unused.data(), work);
                 at_.r_backward(begin, rows, v, nullptr, g, 0, nullptr, work);
                 panel<T> x = times_first(g[1], v, rows, nullptr);
                 x = times_first(depth() == 1 ? work.rz[1] : work.rg[1], theta, rows, &x);
                 for (const index s : some)
                   std::copy_n(x.from(at[s] - begin), inputs(), out + s * inputs());
               });
  }

  void input_sum(const std::vector<index>& at, const double* u, double* out) const override {
    const std::vector<T> still(static_cast<std::size_t>(at_.architecture().n_theta));
    std::vector<T> buffer;
    weight_sums<T> sums(out, buffer, at_.architecture());
    each_block(at,
               [&](index begin, index rows, std::span<const index> some, mlp_workspace<T>& work) {
                 const panel<T> rx(rows, inputs());
                 std::fill_n(rx.from(0), rows * inputs(), T(0));
                 for (const index s : some)
                   std::copy_n(u + s * inputs(), inputs(), rx.from(at[s] - begin));
                 const std::vector<panel<T>> g = deltas(begin, rows, work);
                 at_.r_forward(begin, rows, still.data(), rx.from(0), work);
                 curve_outputs(begin, rows, still.data(), out + last().biases, work);
                 at_.r_backward(begin, rows, still.data(), rx.from(0), g, 0, &sums, work);
                 sums.flush();
               });
  }

 private:
  index depth() const { return static_cast<index>(at_.architecture().layers.size()); }
  const mlp_architecture::layer& last() const { return at_.architecture().layers.back(); }
  void require_targets() const {
    require(!d_.loss.labels, "targets that are labels are no hyperparameters");
  }

  /// z = Z_L of a block, without the biases: the last layer once more. Cost: 2 flops per weight of
  /// that layer and row.
  const T* outputs(index begin, index count, T* z) const {
    const auto& at = last();
    gemm(count, at.out, at.in, at_.activations(depth() - 1, begin),
         {at_.parameters() + at.weights, at.out}, T(0), z, at.out);
    return z;
  }

  /// ℓ_i and g_L, of the outputs.
  void evaluate() {
    const auto& at = last();
    const T* theta = at_.parameters();
    slopes_ = panel<T>(rows(), at.out);
    values_.resize(ones_.size());
    each_block([&](index begin, index count, mlp_workspace<T>& work) {
      T *z = slopes_.from(begin), *p = work.rz.back().from(0);
      outputs(begin, count, z);
      for_chunks(count, at.out, d_.n_threads, work.unused.data(),
                 [&](index first, index rows, double* into) {
                   for (index i = first; i < first + rows; ++i)
                     values_[begin + i] =
                         d_.loss.first(1, at.out, z + i * at.out, theta + at.biases,
                                       d_.targets(begin + i), ones_.data(), p + i * at.out, into);
                 });
    });
  }

  /// body(begin, rows, workspace) for every block of rows.
  template <class Body>
  void each_block(Body&& body) const {
    auto work = d_.workspaces.take();
    at_.make_room(*work);
    for (index b = 0; b < d_.blocks.count(); ++b) {
      poll_interrupt();
      body(d_.blocks.begin(b), d_.blocks.end(b) - d_.blocks.begin(b), *work);
    }
    d_.workspaces.give(std::move(work));
  }

  /// The same for blocks that have some of the rows `at`, with the entries of that list which they
  /// are: body(begin, rows, entries, workspace).
  template <class Body>
  void each_block(const std::vector<index>& at, Body&& body) const {
    std::vector<index> order(at.size());
    std::iota(order.begin(), order.end(), index{0});
    std::sort(order.begin(), order.end(), [&](index s, index t) { return at[s] < at[t]; });
    auto next = order.begin();
    each_block([&](index begin, index rows, mlp_workspace<T>& work) {
      const auto from = next;
      while (next != order.end() && at[*next] < begin + rows) ++next;
      if (next != from) body(begin, rows, std::span(from, next), work);
    });
  }

  /// use(column, row, RZ_L, u_L) along each column of q; rows in any order.
  template <class Use>
  void outputs_along(const_block q, Use&& use) const {
    for (index c = 0; c < q.cols; ++c)
      each_block([&](index begin, index rows, mlp_workspace<T>& work) {
        const T* v = at_.direction(q.col(c), work);
        at_.r_forward(begin, rows, v, nullptr, work);
        const T* shift = v + last().biases;
        for (index i = 0; i < rows; ++i) use(c, begin + i, work.rz.back().from(i), shift);
      });
  }

  /// out = the backward pass of delta(row, output) in the place of G_L.
  template <class Delta>
  void back(double* out, Delta&& delta) const {
    std::vector<T> buffer;
    weight_sums<T> sums(out, buffer, at_.architecture());
    double* biases = out + last().biases;
    each_block([&](index begin, index rows, mlp_workspace<T>& work) {
      for (index i = 0; i < rows; ++i)
        for (index j = 0; j < last().out; ++j) {
          const double e = delta(begin + i, j);
          work.rz.back().from(i)[j] = static_cast<T>(e);
          biases[j] += e;
        }
      at_.r_backward(begin, rows, nullptr, nullptr, at_.deltas_, begin, &sums, work);
      sums.flush();
    });
  }

  /// The g_l of a block.
  std::vector<panel<T>> deltas(index begin, index rows, mlp_workspace<T>& work) const {
    const auto& layers = at_.architecture().layers;
    const T* theta = at_.parameters();
    std::vector<panel<T>> g(layers.size() + 1);
    for (index l = depth(); l >= 1; --l) {
      const index width = layers[l - 1].out;
      g[l] = panel<T>(rows, width);
      if (l == depth()) {
        std::copy_n(slopes_.from(begin), rows * width, g[l].from(0));
        continue;
      }
      const auto& above = layers[l];
      gemm(rows, above.in, above.out, g[l + 1].operand(0),
           gemm_operand<T>{theta + above.weights, above.out}.t(), T(0), g[l].from(0), width);
      for_chunks(rows, width, d_.n_threads, work.unused.data(),
                 [&](index first, index count, double* into) {
                   d_.activation.backward(count, width, g[l].from(first),
                                          at_.activations_[l].from(begin + first),
                                          at_.slope(l, begin + first), into);
                 });
    }
    return g;
  }

  /// RG_L of RZ_L in rz[L], without the c_i.
  void curve_outputs(index begin, index rows, const T* shift, double* sums,
                     mlp_workspace<T>& work) const {
    for_chunks(rows, last().out, d_.n_threads, sums, [&](index first, index count, double* into) {
      d_.loss.second(count, last().out, work.rz.back().from(first), shift,
                     at_.probabilities(begin + first), ones_.data(), into);
    });
  }

  /// e W_1ᵀ, W_1 being the first layer's part of `theta`, plus `more`.
  panel<T> times_first(const panel<T>& e, const T* theta, index rows, panel<T>* more) const {
    const auto& at = at_.architecture().layers.front();
    panel<T> x = more ? std::move(*more) : panel<T>(rows, at.in);
    gemm(rows, at.in, at.out, e.operand(0), gemm_operand<T>{theta + at.weights, at.out}.t(),
         more ? T(1) : T(0), x.from(0), at.in);
    return x;
  }

  const mlp_linearization<T>& at_;
  const mlp_data<T>& d_;
  std::vector<double> ones_, values_;
  panel<T> slopes_;  // g_L
};

template <class T>
std::unique_ptr<NetworkRows> mlp_linearization<T>::loss_rows() const {
  return std::make_unique<mlp_rows<T>>(*this);
}

template std::unique_ptr<NetworkRows> mlp_linearization<double>::loss_rows() const;
template std::unique_ptr<NetworkRows> mlp_linearization<float>::loss_rows() const;

}  // namespace implicitgrad
