// The Kronecker factors of a network's Gauss-Newton blocks (kronecker_curvature.hpp). √Λ has as
// many rows as outputs: √c √p_k (e_k − p) for the softmax, whose squares sum to c (diag(p) − ppᵀ),
// and √c e_k for the squared loss. Each takes a backward pass: the expectation over classes is
// exact.
//
// Cost: (in + 1)² flops a row and layer for A; for G, K times 2 out (out + out of the next layer).
#include <cmath>
#include <type_traits>
#include <utility>

#include "implicitgrad/gram.hpp"
#include "implicitgrad/runtime.hpp"
#include "mlp_linearization.hpp"

namespace implicitgrad {

namespace {

/// G += EᵀE for the rows of a block, by way of a buffer for float.
template <class T>
void add_squares(const panel<T>& e, index rows, std::vector<T>& buffer, std::vector<double>& g) {
  const index n = e.width();
  if constexpr (std::is_same_v<T, double>) {
    gemm(n, n, rows, e.operand(0).t(), e.operand(0), 1.0, g.data(), n);
  } else {
    buffer.resize(g.size());
    gemm(n, n, rows, e.operand(0).t(), e.operand(0), T(0), buffer.data(), n);
    for (std::size_t i = 0; i < g.size(); ++i) g[i] += static_cast<double>(buffer[i]);
  }
}

}  // namespace

template <class T>
std::optional<kronecker_curvature> mlp_linearization<T>::kronecker() const {
  const mlp_data<T>& d = *data_;
  const auto& layers = architecture().layers;
  const auto depth = static_cast<index>(layers.size());
  const index n = d.x->rows(), outputs = d.outputs();
  kronecker_curvature found;
  found.gauge = gauge_;
  found.strength.resize(jac_.size());
  const std::vector<double> ones(jac_.size(), 1.0);
  penalty_.add_product(ones.data(), found.strength.data());

  double total = 0.0;
  for (const double c : d.weights) total += c;
  std::vector<double> root(d.weights.size());
  for (std::size_t i = 0; i < root.size(); ++i)
    root[i] = total > 0.0 ? std::sqrt(d.weights[i] / total) : 0.0;
  for (index l = 1; l <= depth; ++l) {
    const auto& at = layers[l - 1];
    const index in = at.in + 1;
    kronecker_block part{at.weights, in, at.out, {}, {}};
    part.a.resize(static_cast<std::size_t>(in * in));
    part.g.resize(static_cast<std::size_t>(at.out * at.out));
    if (l == 1) {
      weighted_gram<float>(*d.x, true, root.data(), ones.data(), part.a.data(), d.n_threads);
    } else {
      const dense_matrix<T> rows(activations_[l - 1].from(0), n, at.in, at.in, layout::row_major);
      weighted_gram<float>(rows, true, root.data(), ones.data(), part.a.data(), d.n_threads);
    }
    found.blocks.push_back(std::move(part));
  }

  auto work = d.workspaces.take();
  make_room(*work);
  const panel<T>& out = work->rz.back();
  std::vector<T> buffer;
  for (index b = 0; b < d.blocks.count(); ++b) {
    const index begin = d.blocks.begin(b), rows = d.blocks.end(b) - begin;
    for (index k = 0; k < outputs; ++k) {
      poll_interrupt();
      for (index i = 0; i < rows; ++i) {
        const T* p = probabilities(begin + i);
        const double c = d.weights[begin + i];
        const T scale = static_cast<T>(std::sqrt(p ? c * static_cast<double>(p[k]) : c));
        for (index j = 0; j < outputs; ++j)
          out.from(i)[j] = scale * ((j == k ? T(1) : T(0)) - (p ? p[j] : T(0)));
      }
      r_backward(begin, rows, nullptr, nullptr, deltas_, begin, nullptr, *work);
      for (index l = 1; l <= depth; ++l)
        add_squares(l == depth ? out : work->rg[l], rows, buffer, found.blocks[l - 1].g);
    }
  }
  d.workspaces.give(std::move(work));
  return found;
}

template std::optional<kronecker_curvature> mlp_linearization<double>::kronecker() const;
template std::optional<kronecker_curvature> mlp_linearization<float>::kronecker() const;

}  // namespace implicitgrad
