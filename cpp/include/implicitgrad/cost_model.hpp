// What work on a linear model costs, in seconds of one thread, from committed constants: never from
// a clock, so that the same problem is always solved in the same way. Only the ratios matter, and
// they change little with the number of threads. docs/cost-model.md sets predictions beside
// measurements.
#pragma once

#include <cmath>

#include "implicitgrad/matrix.hpp"
#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// The numbers that costs depend on.
struct problem_shape {
  index rows = 0;      // n
  index size = 0;      // of one model's θ: order() · classes
  double bytes = 0.0;  // of X, read once a pass
  // Products of two entries in XᵀDX by outer products of rows; infinite where X is dense.
  double outer_terms = HUGE_VAL;
  double column_terms = HUGE_VAL;  // as much in XXᵀ, by outer products of columns, in the dual
  // Models that share X, and how many of them differ in their weights.
  index folds = 1, models = 1;
  bool gram_is_known = false;  // XᵀDX does not have to be formed
  index classes = 1;           // entries of a model's θ for each column of X

  index order() const { return size / classes; }
};

/// That of X and of models of `size` parameters each.
problem_shape shape_of(const Matrix& x, index size, index folds, index models, index classes = 1);

namespace cost {

/// One product with H, for one vector of each model: X is read once, for all classes.
double product(const problem_shape& shape);

/// One XᵀDX from m rows, in single or in double precision.
double gram(const problem_shape& shape, index m, bool single);

/// Whether all rows' Gram matrix is formed by outer products, and in the dual all columns'.
bool by_outer_products(const problem_shape& shape);
bool by_outer_columns(const problem_shape& shape);

/// Whether, in the dual of `rows` rows, each fold has a factor of its own: where they fit in 1 GB.
bool by_fold(index folds, index rows);

/// A Cholesky factor of order q, and one solve with it.
double factor(index q);
double solve(index q);

}  // namespace cost

/// How a sketch of m rows would serve.
struct sketch_plan {
  index rows = 0;      // 0: no sketch is worth having
  double setup = 0.0;  // seconds to build and factor it
  double each = 0.0;   // seconds an iteration of CG takes with it
  double nats = 0.0;   // what an iteration gains: the residual falls by e^{−nats}
  double total = 0.0;  // for the solve that was asked about
};

/// The sketch of exactly m rows, for a solve that is to gain `nats`.
sketch_plan sketch_of(const problem_shape& shape, index m, double nats);

/// The best number of rows. Where X has fewer rows than columns that is all of them (the dual).
sketch_plan best_sketch(const problem_shape& shape, double nats);

/// Products that a solve with the diagonal takes where it converges fast, the diagonal itself
/// included. A sketch or a factor that costs no more is not a risk.
inline constexpr double least_with_diagonal = 15.0;

/// Factoring H in double precision and solving with it.
double direct(const problem_shape& shape);

}  // namespace implicitgrad
