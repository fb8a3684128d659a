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
void mlp_linearization<T>::make_room(mlp_workspace<T>& work) const {
  if (!work.rz.empty()) return;
  const auto& layers = architecture().layers;
  const index most = data_->blocks.rows_per_block, depth = static_cast<index>(layers.size());
  work.rz.resize(layers.size() + 1), work.ra.resize(layers.size()), work.rg.resize(layers.size());
  for (index l = 1; l <= depth; ++l) work.rz[l] = panel<T>(most, layers[l - 1].out);
  for (index l = 1; l < depth; ++l)
    work.ra[l] = panel<T>(most, layers[l].in), work.rg[l] = panel<T>(most, layers[l].in);
  const std::vector<index>& widths = architecture().widths;
  work.unused.resize(static_cast<std::size_t>(*std::max_element(widths.begin(), widths.end())));
}

template <class T>
const T* mlp_linearization<T>::direction(const double* v, mlp_workspace<T>& work) const {
  if constexpr (std::is_same_v<T, double>) {
    return v;
  } else {
    work.direction.assign(v, v + architecture().n_theta);
    return work.direction.data();
  }
}

template <class T>
void mlp_linearization<T>::r_forward(index begin, index rows, const T* v, const T* rx,
                                     mlp_workspace<T>& work) const {
  const auto& layers = architecture().layers;
  const auto depth = static_cast<index>(layers.size());
  const T* theta = parameters();
  for (index l = 1; l <= depth; ++l) {
    const auto& at = layers[l - 1];
    T* z = work.rz[l].from(0);
    gemm(rows, at.out, at.in, activations(l - 1, begin), {v + at.weights, at.out}, T(0), z, at.out);
    const T* moved = l > 1 ? work.ra[l - 1].from(0) : rx;
    if (moved)
      gemm(rows, at.out, at.in, gemm_operand<T>{moved, at.in}, {theta + at.weights, at.out}, T(1),
           z, at.out);
    if (l == depth) return;
    for_chunks(rows, at.out, data_->n_threads, nullptr, [&](index first, index count, double*) {
      const index row = begin + first;
      data_->activation.r_forward(count, at.out, work.rz[l].from(first), v + at.biases,
                                  activations_[l].from(row), slope(l, row), work.ra[l].from(first));
    });
  }
}

template <class T>
void mlp_linearization<T>::r_backward(index begin, index rows, const T* v, const T* rx,
                                      const std::vector<panel<T>>& deltas, index from,
                                      weight_sums<T>* sums, mlp_workspace<T>& work) const {
  const auto& layers = architecture().layers;
  const auto depth = static_cast<index>(layers.size());
  const T* theta = parameters();
  for (index l = depth; l >= 1; --l) {
    const auto& at = layers[l - 1];
    const gemm_operand<T> r_delta = (l == depth ? work.rz[l] : work.rg[l]).operand(0);
    const gemm_operand<T> delta = deltas[l].operand(from);
    const T* moved = !v ? nullptr : l > 1 ? work.ra[l - 1].from(0) : rx;
    if (sums) sums->add(l - 1, activations(l - 1, begin).t(), r_delta, rows, true);
    if (sums && moved) sums->add(l - 1, gemm_operand<T>{moved, at.in}.t(), delta, rows, false);
    if (l == 1) return;
    T* e = work.rg[l - 1].from(0);
    gemm(rows, at.in, at.out, r_delta, gemm_operand<T>{theta + at.weights, at.out}.t(), T(0), e,
         at.in);
    if (v)
      gemm(rows, at.in, at.out, delta, gemm_operand<T>{v + at.weights, at.out}.t(), T(1), e, at.in);
    double* total = sums ? sums->biases(l - 2) : work.unused.data();
    for_chunks(rows, at.in, data_->n_threads, total, [&](index first, index count, double* into) {
      const T* a = activations_[l - 1].from(begin + first);
      const T* slopes = slope(l - 1, begin + first);
      T* to = work.rg[l - 1].from(first);
      if (v)
        data_->activation.r_backward(count, at.in, to, work.rz[l - 1].from(first),
                                     deltas[l - 1].from(from + first), a, slopes, into);
      else
        data_->activation.backward(count, at.in, to, a, slopes, into);
    });
  }
}

template <class T>
void mlp_linearization<T>::apply(const double* v, double* out, curvature kind,
                                 mlp_workspace<T>& work) const {
  const mlp_data<T>& d = *data_;
  make_room(work);
  const T* along = direction(v, work);
  const auto& last = architecture().layers.back();
  const panel<T>& z = work.rz.back();
  weight_sums<T> sums(out, work.sums, architecture());
  for (index b = 0; b < d.blocks.count(); ++b) {
    poll_interrupt();
    const index begin = d.blocks.begin(b), rows = d.blocks.end(b) - begin;
    r_forward(begin, rows, along, nullptr, work);
    for_chunks(rows, last.out, d.n_threads, out + last.biases,
               [&](index first, index count, double* into) {
                 const index row = begin + first;
                 d.loss.second(count, last.out, z.from(first), along + last.biases,
                               probabilities(row), d.weights.data() + row, into);
               });
    r_backward(begin, rows, kind == curvature::exact ? along : nullptr, nullptr, deltas_, begin,
               &sums, work);
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
template void mlp_linearization<double>::apply(const double*, double*, curvature,
                                               mlp_workspace<double>&) const;
template void mlp_linearization<double>::make_room(mlp_workspace<double>&) const;
template const double* mlp_linearization<double>::direction(const double*,
                                                            mlp_workspace<double>&) const;
template void mlp_linearization<double>::r_forward(index, index, const double*, const double*,
                                                   mlp_workspace<double>&) const;
template void mlp_linearization<double>::r_backward(index, index, const double*, const double*,
                                                    const std::vector<panel<double>>&, index,
                                                    weight_sums<double>*,
                                                    mlp_workspace<double>&) const;
template std::vector<double> mlp_linearization<double>::gradient_terms(bool) const;
template solve_costs mlp_linearization<double>::costs(double) const;
template void mlp_linearization<float>::apply(const double*, double*, curvature) const;
template void mlp_linearization<float>::apply(const double*, double*, curvature,
                                              mlp_workspace<float>&) const;
template void mlp_linearization<float>::make_room(mlp_workspace<float>&) const;
template const float* mlp_linearization<float>::direction(const double*,
                                                          mlp_workspace<float>&) const;
template void mlp_linearization<float>::r_forward(index, index, const float*, const float*,
                                                  mlp_workspace<float>&) const;
template void mlp_linearization<float>::r_backward(index, index, const float*, const float*,
                                                   const std::vector<panel<float>>&, index,
                                                   weight_sums<float>*,
                                                   mlp_workspace<float>&) const;
template std::vector<double> mlp_linearization<float>::gradient_terms(bool) const;
template solve_costs mlp_linearization<float>::costs(double) const;

}  // namespace implicitgrad
