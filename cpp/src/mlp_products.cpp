#include <algorithm>
#include <cmath>
#include <type_traits>

#include "implicitgrad/runtime.hpp"
#include "implicitgrad/space.hpp"
#include "mlp_linearization.hpp"

namespace implicitgrad {

/// Column after column: a matrix product has enough columns of its own.
template <class T>
void mlp_linearization<T>::product::apply(const_block v, block out) const {
  const auto& last = at_.architecture().layers.back();
  for (index c = 0; c < v.cols; ++c) {
    at_.apply(v.col(c), out.col(c), kind_);
    if (!gauged_ || at_.gauge_ == 0.0) continue;
    double mean = 0.0;
    for (index j = 0; j < last.out; ++j) mean += v.col(c)[last.biases + j];
    mean /= static_cast<double>(last.out);
    for (index j = 0; j < last.out; ++j) out.col(c)[last.biases + j] += at_.gauge_ * mean;
  }
}

template <class T>
void mlp_linearization<T>::apply(const double* v, double* out, curvature kind) const {
  auto work = data_->workspaces.take();
  apply(v, out, kind, *work);
  data_->workspaces.give(std::move(work));
}

template <class T>
void mlp_linearization<T>::apply(const double* v, double* out, curvature kind,
                                 mlp_workspace<T>& work) const {
  const mlp_data<T>& d = *data_;
  const auto& layers = architecture().layers;
  const auto depth = static_cast<index>(layers.size());
  const bool exact = kind == curvature::exact;
  const T* theta = parameters();
  const T* direction;
  if constexpr (std::is_same_v<T, double>) {
    direction = v;
  } else {
    work.direction.assign(v, v + architecture().n_theta);
    direction = work.direction.data();
  }

  auto& [rz, ra, rg, cast, buffer] = work;
  if (rz.empty()) {
    const index most = d.blocks.rows_per_block;
    rz.resize(layers.size() + 1), ra.resize(layers.size()), rg.resize(layers.size());
    for (index l = 1; l <= depth; ++l) rz[l] = panel<T>(most, layers[l - 1].out);
    for (index l = 1; l < depth; ++l)
      ra[l] = panel<T>(most, layers[l].in), rg[l] = panel<T>(most, layers[l].in);
  }

  weight_sums<T> sums(out, buffer, architecture());
  const auto slope_of = [&](index l, index row) {
    return d.activation.keeps_slope ? slopes_[l].from(row) : nullptr;
  };
  for (index b = 0; b < d.blocks.count(); ++b) {
    poll_interrupt();
    const index begin = d.blocks.begin(b), rows = d.blocks.end(b) - begin;
    for (index l = 1; l <= depth; ++l) {
      const auto& at = layers[l - 1];
      T* z = rz[l].from(0);
      gemm(rows, at.out, at.in, activations(l - 1, begin), {direction + at.weights, at.out}, T(0),
           z, at.out);
      if (l > 1)
        gemm(rows, at.out, at.in, ra[l - 1].operand(0), {theta + at.weights, at.out}, T(1), z,
             at.out);
      const T* shift = direction + at.biases;
      if (l < depth)
        for_chunks(rows, at.out, d.n_threads, nullptr, [&](index first, index count, double*) {
          const index row = begin + first;
          d.activation.r_forward(count, at.out, rz[l].from(first), shift, activations_[l].from(row),
                                 slope_of(l, row), ra[l].from(first));
        });
      else
        for_chunks(rows, at.out, d.n_threads, out + at.biases,
                   [&](index first, index count, double* into) {
                     const index row = begin + first;
                     d.loss.second(count, at.out, rz[l].from(first), shift,
                                   d.loss.keeps_probabilities ? probabilities_.from(row) : nullptr,
                                   d.weights.data() + row, into);
                   });
    }

    for (index l = depth; l >= 1; --l) {
      const auto& at = layers[l - 1];
      const gemm_operand<T> r_delta = (l == depth ? rz[l] : rg[l]).operand(0);
      const gemm_operand<T> delta = deltas_[l].operand(begin);
      sums.add(l - 1, activations(l - 1, begin).t(), r_delta, rows, true);
      if (l == 1) break;
      T* e = rg[l - 1].from(0);
      gemm(rows, at.in, at.out, r_delta, gemm_operand<T>{theta + at.weights, at.out}.t(), T(0), e,
           at.in);
      if (exact) {
        sums.add(l - 1, ra[l - 1].operand(0).t(), delta, rows, false);
        gemm(rows, at.in, at.out, delta, gemm_operand<T>{direction + at.weights, at.out}.t(), T(1),
             e, at.in);
      }
      for_chunks(rows, at.in, d.n_threads, out + layers[l - 2].biases,
                 [&](index first, index count, double* into) {
                   const index row = begin + first;
                   const T* a = activations_[l - 1].from(row);
                   const T* slope = slope_of(l - 1, row);
                   if (exact)
                     d.activation.r_backward(count, at.in, rg[l - 1].from(first),
                                             rz[l - 1].from(first), deltas_[l - 1].from(row), a,
                                             slope, into);
                   else
                     d.activation.backward(count, at.in, rg[l - 1].from(first), a, slope, into);
                 });
    }
    sums.flush();
  }
  penalty_.add_product(v, out);
}

/// Σ_i |a_ij g_ik| ≤ ‖a_j‖ ‖g_k‖, once for each layer that passed its rounding on; and the
/// penalty's. Cost: reads X, activations and deltas.
template <class T>
std::vector<double> mlp_linearization<T>::gradient_terms(bool /*by_row*/) const {
  const mlp_data<T>& d = *data_;
  const index n = d.x->rows();
  const auto norms = [&](index width, auto&& add) {
    std::vector<double> squares(static_cast<std::size_t>(width));
    add(squares.data());
    for (double& s : squares) s = std::sqrt(s);
    return squares;
  };
  const auto of_panel = [&](const panel<T>& a) {
    return norms(a.width(), [&](double* squares) {
      for_chunks(n, a.width(), d.n_threads, squares, [&](index row, index count, double* into) {
        kernels::add_column_squares(count, a.width(), a.from(row), into);
      });
    });
  };
  std::vector<double> in = norms(d.x->cols(), [&](double* squares) {
    const std::vector<double> ones(static_cast<std::size_t>(n), 1.0);
    d.x->accumulate_squares(0, n, ones.data(), squares);
  });
  std::vector<double> terms(jac_.size());
  const auto depth = static_cast<index>(architecture().layers.size());
  const double passed = static_cast<double>(depth), root = std::sqrt(static_cast<double>(n));
  for (index l = 1; l <= depth; ++l) {
    const auto& at = architecture().layers[l - 1];
    const std::vector<double> out = of_panel(deltas_[l]);
    for (index j = 0; j < at.in; ++j)
      for (index k = 0; k < at.out; ++k)
        terms[at.weights + j * at.out + k] = passed * in[j] * out[k];
    for (index k = 0; k < at.out; ++k) terms[at.biases + k] = passed * root * out[k];
    if (l < depth) in = of_panel(activations_[l]);
  }
  std::vector<double> size(jac_.size());
  std::transform(penalty_.theta().begin(), penalty_.theta().end(), size.begin(),
                 [](double x) { return std::abs(x); });
  penalty_.add_product(size.data(), terms.data());
  return terms;
}

/// A factor is formed from n_theta products. CG's iterations grow with the order of H, as nothing
/// bounds its condition.
template <class T>
solve_costs mlp_linearization<T>::costs(double /*nats*/) const {
  constexpr double flops_per_second = std::is_same_v<T, double> ? 4e10 : 8e10;  // of one thread
  constexpr double factor_flops = 6e10, start_up = 1e-5;
  const auto q = static_cast<double>(architecture().n_theta);
  double flops = 0.0;
  for (const auto& at : architecture().layers)
    flops += (at.weights == 0 ? 4.0 : 12.0) * static_cast<double>(at.in * at.out);
  const double each = start_up + flops * static_cast<double>(data_->x->rows()) / flops_per_second;
  const double iterations = 4.0 * std::min(q, 500.0);
  return {each, q * each + q * q * q / 3.0 / factor_flops, HUGE_VAL, iterations * each};
}

template void mlp_linearization<double>::product::apply(const_block, block) const;
template void mlp_linearization<float>::product::apply(const_block, block) const;
template void mlp_linearization<double>::apply(const double*, double*, curvature) const;
template void mlp_linearization<float>::apply(const double*, double*, curvature) const;
template void mlp_linearization<double>::apply(const double*, double*, curvature,
                                               mlp_workspace<double>&) const;
template void mlp_linearization<float>::apply(const double*, double*, curvature,
                                              mlp_workspace<float>&) const;
template std::vector<double> mlp_linearization<double>::gradient_terms(bool) const;
template std::vector<double> mlp_linearization<float>::gradient_terms(bool) const;
template solve_costs mlp_linearization<double>::costs(double) const;
template solve_costs mlp_linearization<float>::costs(double) const;

}  // namespace implicitgrad
