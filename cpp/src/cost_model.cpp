#include "implicitgrad/cost_model.hpp"

#include <algorithm>
#include <cmath>

namespace implicitgrad {

namespace {

// One thread of a current server core; half of what two threads of one socket do together.
constexpr double bytes_per_second = 2.5e10;
constexpr double single_flops = 2.2e11, double_flops = 1.15e11;  // of the Gram kernel
constexpr double factor_flops = 6e10;                            // of Cholesky's
constexpr double jump = 1.25e-9;   // to an entry in cache, and a product: measured 0.7 to 1.25
constexpr double start_up = 3e-6;  // of a pass or a factorisation
constexpr double further = 0.08;   // of a pass: what each further vector adds to it, as measured
constexpr double margin = 1.2e-9;  // to couple a class of a row with the others, as measured
// What an iteration gains at most where classes, which sketches leave apart, are coupled.
constexpr double coupled = 1.2;
// A factor of a larger order than this is not formed: it takes more memory than it saves time.
constexpr index largest_order = 8192;

/// Dense kernels reach their speed as the order grows.
double rate(double most, index order) {
  const auto q = static_cast<double>(order);
  return most * q / (q + 100.0);
}

double cube(index q) {
  return static_cast<double>(q) * static_cast<double>(q) * static_cast<double>(q);
}

}  // namespace

problem_shape shape_of(const Matrix& x, index size, index folds, index models, index classes) {
  problem_shape shape{x.rows(), size,  x.bytes(), x.outer_product_terms(), HUGE_VAL, folds,
                      models,   false, classes};
  if (shape.rows < shape.order() && shape.rows <= largest_order)
    shape.column_terms = x.outer_column_terms();
  return shape;
}

namespace cost {

double product(const problem_shape& shape) {
  const double vectors = 1.0 + further * static_cast<double>(shape.models * shape.classes - 1);
  const double coupling =
      shape.classes > 1 ? margin * static_cast<double>(shape.rows * shape.classes * shape.models)
                        : 0.0;
  return start_up + vectors * shape.bytes / bytes_per_second + coupling;
}

bool by_outer_columns(const problem_shape& shape) {
  const auto n = static_cast<double>(shape.rows), p = static_cast<double>(shape.order());
  return shape.column_terms * jump < n * n * p / rate(double_flops, shape.rows);
}

bool by_fold(index folds, index rows) { return folds * rows * rows <= index{1} << 27; }

bool by_outer_products(const problem_shape& shape) {
  const auto p = static_cast<double>(shape.order());
  return shape.outer_terms * jump <
         static_cast<double>(shape.rows) * p * p / rate(double_flops, shape.order());
}

double gram(const problem_shape& shape, index m, bool single) {
  if (m == shape.rows && by_outer_products(shape)) return start_up + shape.outer_terms * jump;
  const auto p = static_cast<double>(shape.order()), rows = static_cast<double>(m);
  return start_up + rows * p * p / rate(single ? single_flops : double_flops, shape.order()) +
         4.0 * rows * p / bytes_per_second;  // copied into the buffer
}

double factor(index q) { return start_up + cube(q) / 3.0 / rate(factor_flops, q); }

double solve(index q) {
  return start_up + 8.0 * static_cast<double>(q) * static_cast<double>(q) / bytes_per_second;
}

}  // namespace cost

sketch_plan sketch_of(const problem_shape& shape, index m, double nats) {
  const index n = shape.rows, p = shape.order();
  sketch_plan plan;
  plan.rows = std::min(m, n);
  if (std::min(plan.rows, p) > largest_order) return {};
  const auto share = static_cast<double>(plan.rows) / static_cast<double>(n);
  const double pass = cost::product(shape);
  const auto classes = static_cast<double>(shape.classes);
  const auto models = classes * static_cast<double>(shape.models);
  const bool by_fold = shape.folds > 1 && shape.classes == 1 && plan.rows < p &&
                       cost::by_fold(shape.folds, plan.rows);
  if (plan.rows < p) {
    const auto rows = static_cast<double>(plan.rows);
    // Columns are packed across rows, and a solve sweeps X once more for want of its own kernels:
    // both as measured.
    const double gram =
        plan.rows == n && cost::by_outer_columns(shape)
            ? start_up + shape.column_terms * jump
            : 1.5 * rows * rows * static_cast<double>(p) / rate(single_flops, plan.rows);
    const index order = by_fold ? plan.rows - plan.rows / shape.folds : plan.rows;
    plan.setup = gram + static_cast<double>(by_fold ? shape.folds : 1) * cost::factor(order);
    plan.each = pass * (1.0 + 3.0 * share) + models * cost::solve(order);
  } else {
    plan.setup = cost::gram(shape, plan.rows, true) + cost::factor(p);
    plan.each = pass + models * cost::solve(p);
  }
  plan.setup *= classes;  // each has a sketch of its own
  // Sampled without replacement, m rows leave a relative error of √(p/m · (1 − m/n)); all of them
  // leave the rounding of single precision.
  // Otherwise one sketch serves all folds, each of which is a sample itself, for want of the rows
  // it leaves out.
  double left = static_cast<double>(p) / static_cast<double>(plan.rows) * (1.0 - share);
  if (shape.folds > 1 && !by_fold)
    left +=
        static_cast<double>(p) / (static_cast<double>(n) * static_cast<double>(shape.folds - 1));
  plan.nats = std::clamp(-0.5 * std::log(std::max(left, 1e-8)), 0.1, 8.0);
  if (shape.classes > 1) plan.nats = std::min(plan.nats, coupled);
  plan.total = plan.setup + (std::ceil(nats / plan.nats) + 1.0) * plan.each;
  return plan;
}

sketch_plan best_sketch(const problem_shape& shape, double nats) {
  sketch_plan best = sketch_of(shape, shape.rows, nats);
  for (index m = 2 * shape.order(); m < shape.rows; m *= 2) {
    const sketch_plan plan = sketch_of(shape, m, nats);
    if (plan.rows > 0 && (best.rows == 0 || plan.total < best.total)) best = plan;
  }
  return best;
}

double direct(const problem_shape& shape) {
  if (shape.size > largest_order) return HUGE_VAL;
  // Where the Gram matrices are at hand, training has left a factor behind.
  if (shape.gram_is_known) return 3.0 * cost::product(shape);
  const auto pairs =
      static_cast<double>(shape.classes > 1 ? shape.classes * (shape.classes - 1) / 2 : index{1});
  return static_cast<double>(shape.folds) *
             (pairs * cost::gram(shape, shape.rows, false) + cost::factor(shape.size)) +
         3.0 * cost::product(shape);
}

}  // namespace implicitgrad
