#include "implicitgrad/mlp.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>
#include <utility>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/runtime.hpp"
#include "mlp_linearization.hpp"

namespace implicitgrad {

void mlp_architecture::lay_out() {
  require(widths.size() >= 2, "a network has at least one layer");
  layers.clear();
  penalty.runs.clear();
  n_theta = 0;
  for (std::size_t l = 1; l < widths.size(); ++l) {
    const index in = widths[l - 1], out = widths[l];
    require(in > 0 && out > 0, "a layer must have at least one unit");
    layers.push_back({in, out, n_theta, n_theta + in * out});
    penalty.runs.push_back({n_theta, in * out});
    n_theta += (in + 1) * out;
  }
  const index weights = penalty.penalised();
  const auto labels = static_cast<index>(penalty.group.size());
  require(labels == (penalty.n_groups > 0 ? weights : 0) ||
              (labels == 0 && penalty.n_groups == weights),
          "penalty must have one group label for each weight");
  for (const index g : penalty.group)
    require(g >= 0 && g < penalty.n_groups, "penalty has a group label out of range");
}

namespace {

/// Rows whose inputs and derivatives take 16 MB, which a last level of cache holds: every product
/// of the BLAS waits for all of its threads, so that few large ones are better than many small.
row_blocks block_rows(const mlp_architecture& architecture, index rows, std::size_t item) {
  index width = architecture.widths.front();
  for (std::size_t l = 1; l < architecture.widths.size(); ++l) width += 3 * architecture.widths[l];
  const index fitting = (index{1} << 24) / (width * static_cast<index>(item));
  return {rows, std::clamp<index>(fitting / 64 * 64, 256, 4096)};
}

template <class T>
class mlp : public Objective {
 public:
  explicit mlp(std::shared_ptr<const mlp_data<T>> data) : data_(std::move(data)) {}

  index n_theta() const override { return data_->architecture->n_theta; }
  index n_lam() const override { return data_->architecture->penalty.n_groups; }
  std::shared_ptr<const Linearization> linearize(const double* theta,
                                                 const double* lam) const override {
    return std::make_shared<const mlp_linearization<T>>(data_, theta, lam);
  }

 private:
  std::shared_ptr<const mlp_data<T>> data_;
};

template <class T>
std::shared_ptr<Objective> make(std::shared_ptr<const mlp_architecture> architecture,
                                std::shared_ptr<const Matrix> owner, const dense_matrix<T>& x,
                                std::vector<double> y, std::vector<double> weights, int n_threads) {
  constexpr index most = std::numeric_limits<int>::max();
  require(x.ld() <= most && x.rows() <= most, "X is too large for the BLAS");
  require(x.cols() == architecture->widths.front(), "X has the wrong number of columns");
  const auto activation = kernels::activation<T>(architecture->activation);
  const auto loss =
      kernels::output_loss<T>(architecture->loss, static_cast<index>(y.size()) == x.rows());
  const row_blocks blocks = block_rows(*architecture, x.rows(), sizeof(T));
  const std::shared_ptr<const mlp_data<T>> data(
      new mlp_data<T>{std::move(architecture), std::move(owner), &x, std::move(y),
                      std::move(weights), activation, loss, n_threads, blocks});
  const index outputs = data->outputs(), n = x.rows();
  require(static_cast<index>(data->weights.size()) == n, "weights must have an entry for each row");
  require(static_cast<index>(data->y.size()) == n * (data->loss.labels ? 1 : outputs),
          "y does not fit the rows of X and the outputs");
  if (data->loss.labels)
    for (const double label : data->y)
      require(label >= 0.0 && label < static_cast<double>(outputs), "y has a class out of range");
  return std::make_shared<mlp<T>>(data);
}

}  // namespace

std::shared_ptr<Objective> make_mlp(std::shared_ptr<const mlp_architecture> architecture,
                                    std::shared_ptr<const Matrix> x, std::vector<double> y,
                                    std::vector<double> weights, int n_threads) {
  if (const auto* wide = dynamic_cast<const dense_matrix<double>*>(x.get()))
    return make(std::move(architecture), x, *wide, std::move(y), std::move(weights), n_threads);
  const auto* narrow = dynamic_cast<const dense_matrix<float>*>(x.get());
  require(narrow, "X must be dense");
  return make(std::move(architecture), x, *narrow, std::move(y), std::move(weights), n_threads);
}

template <class T>
weight_sums<T>::weight_sums(double* out, std::vector<T>& buffer,
                            const mlp_architecture& architecture)
    : out_(out), buffer_(buffer), architecture_(architecture) {
  std::fill_n(out, architecture.n_theta, 0.0);
  if constexpr (!std::is_same_v<T, double>)
    buffer_.resize(static_cast<std::size_t>(architecture.n_theta));
}

template <class T>
void weight_sums<T>::add(index l, gemm_operand<T> a, gemm_operand<T> b, index rows, bool fresh) {
  const auto& at = architecture_.layers[l];
  if constexpr (std::is_same_v<T, double>)
    gemm(at.in, at.out, rows, a, b, fresh && first_ ? 0.0 : 1.0, out_ + at.weights, at.out);
  else
    gemm(at.in, at.out, rows, a, b, fresh ? T(0) : T(1), buffer_.data() + at.weights, at.out);
}

template <class T>
void weight_sums<T>::flush() {
  first_ = false;
  if constexpr (!std::is_same_v<T, double>)
    for (const auto& [begin, count] : architecture_.penalty.runs)  // the weights
      for (index i = begin; i < begin + count; ++i) out_[i] += static_cast<double>(buffer_[i]);
}

template <class T>
const T* mlp_linearization<T>::parameters() const {
  if constexpr (std::is_same_v<T, double>)
    return penalty_.theta().data();
  else
    return narrow_.data();
}

template <class T>
mlp_linearization<T>::mlp_linearization(std::shared_ptr<const mlp_data<T>> data,
                                        const double* theta, const double* lam)
    : data_(std::move(data)),
      penalty_(architecture().penalty, theta, architecture().n_theta, lam),
      jac_(static_cast<std::size_t>(architecture().n_theta)) {
  if constexpr (!std::is_same_v<T, double>) narrow_.assign(theta, theta + architecture().n_theta);
  linearize();
  fun_ += penalty_.fun();
  penalty_.add_product(theta, jac_.data());
}

template <class T>
double mlp_linearization<T>::bytes() const {
  index width = probabilities_.width();
  for (const auto* panels : {&activations_, &slopes_, &deltas_})
    for (const panel<T>& held : *panels) width += held.width();
  const auto of_rows = static_cast<double>(data_->x->rows() * width) * sizeof(T);
  return of_rows + 8.0 * static_cast<double>(2 * architecture().n_theta) +
         sizeof(T) * static_cast<double>(narrow_.size());
}

/// Forward and back once, block by block.
template <class T>
void mlp_linearization<T>::linearize() {
  const mlp_data<T>& d = *data_;
  const auto& layers = architecture().layers;
  const auto depth = static_cast<index>(layers.size());
  const index n = d.x->rows(), outputs = d.outputs();
  activations_.resize(layers.size()), slopes_.resize(layers.size());
  deltas_.resize(layers.size() + 1);
  for (index l = 1; l < depth; ++l) {
    activations_[l] = panel<T>(n, layers[l].in);
    if (d.activation.keeps_slope) slopes_[l] = panel<T>(n, layers[l].in);
  }
  for (index l = 1; l <= depth; ++l) deltas_[l] = panel<T>(n, layers[l - 1].out);
  if (d.loss.keeps_probabilities) probabilities_ = panel<T>(n, outputs);

  auto work = d.workspaces.take();
  weight_sums<T> sums(jac_.data(), work->sums, architecture());
  const T* theta = parameters();
  for (index b = 0; b < d.blocks.count(); ++b) {
    poll_interrupt();
    const index begin = d.blocks.begin(b), rows = d.blocks.end(b) - begin;
    for (index l = 1; l <= depth; ++l) {
      const auto& at = layers[l - 1];
      const panel<T>& z = l < depth ? activations_[l] : deltas_[l];
      gemm(rows, at.out, at.in, activations(l - 1, begin), {theta + at.weights, at.out}, T(0),
           z.from(begin), at.out);
      if (l == depth) break;
      for_chunks(rows, at.out, d.n_threads, nullptr, [&](index first, index count, double*) {
        const index row = begin + first;
        T* slope = d.activation.keeps_slope ? slopes_[l].from(row) : nullptr;
        d.activation.forward(count, at.out, z.from(row), theta + at.biases, slope);
      });
    }

    // The last sum of a chunk is that of its losses.
    std::vector<double> found(static_cast<std::size_t>(outputs + 1));
    for_chunks(
        rows, outputs + 1, d.n_threads, found.data(), [&](index first, index count, double* into) {
          const index row = begin + first;
          into[outputs] =
              d.loss.first(count, outputs, deltas_[depth].from(row), theta + layers.back().biases,
                           d.targets(row), d.weights.data() + row,
                           d.loss.keeps_probabilities ? probabilities_.from(row) : nullptr, into);
        });
    for (index j = 0; j < outputs; ++j) jac_[layers.back().biases + j] += found[j];
    fun_ += found[outputs];

    for (index l = depth; l >= 1; --l) {
      const auto& at = layers[l - 1];
      const gemm_operand<T> delta = deltas_[l].operand(begin);
      sums.add(l - 1, activations(l - 1, begin).t(), delta, rows, true);
      if (l == 1) break;
      const panel<T>& e = deltas_[l - 1];
      gemm(rows, at.in, at.out, delta, gemm_operand<T>{theta + at.weights, at.out}.t(), T(0),
           e.from(begin), at.in);
      for_chunks(rows, at.in, d.n_threads, jac_.data() + layers[l - 2].biases,
                 [&](index first, index count, double* into) {
                   const index row = begin + first;
                   const T* slope = d.activation.keeps_slope ? slopes_[l - 1].from(row) : nullptr;
                   d.activation.backward(count, at.in, e.from(row), activations_[l - 1].from(row),
                                         slope, into);
                 });
    }
    sums.flush();
  }
  d.workspaces.give(std::move(work));

  // The mean curvature of the loss in the output biases, other than along their common shift.
  if (d.loss.keeps_probabilities && outputs > 1) {
    for (index i = 0; i < n; ++i) {
      double square = 0.0;
      for (index j = 0; j < outputs; ++j) {
        const auto p = static_cast<double>(probabilities_.from(i)[j]);
        square += p * (1.0 - p);
      }
      gauge_ += d.weights[i] * square;
    }
    gauge_ /= static_cast<double>(outputs - 1);
  }
}

template class mlp_linearization<double>;
template class mlp_linearization<float>;
template class weight_sums<double>;
template class weight_sums<float>;

}  // namespace implicitgrad
