// A = L Lᵀ for a symmetric positive definite A, and solves with it. On the tiles of the Gram
// kernel: the same bits at any thread count, and no threads of a LAPACK beside ours.
#pragma once

#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// Overwrites the lower triangle of A, column-major n × n, with L; false where A is not positive
/// definite (or not finite), A being spoilt then. The upper triangle is left alone.
/// Cost: n³/3 flops; n² words of memory beside A.
bool cholesky_decompose(index n, double* a, int n_threads);

/// v ← L Lᵀ v. Cost: L is read twice.
void cholesky_product(index n, const double* l, double* v);

/// b ← (L Lᵀ)⁻¹ b for each of `columns` vectors. Cost: L is read twice for every four of them, 2 n²
/// flops a column.
void cholesky_solve(index n, const double* l, double* b, index columns);

/// X ← X L⁻ᵀ for an X of `rows` rows and n columns that are ld apart. Cost: rows n² flops, X read
/// and written once.
void cholesky_divide(index n, const double* l, double* x, index rows, index ld, int n_threads);

/// y = A x for a symmetric A, column-major n × n, its upper triangle and its diagonal given. Cost:
/// the triangle is read once.
void symmetric_product(index n, const double* upper, const double* diagonal, const double* x,
                       double* y);

}  // namespace implicitgrad
