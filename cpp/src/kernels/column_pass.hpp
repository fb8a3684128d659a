// One row block of a pass over a column-major matrix: see column_pass.cpp.
#pragma once

#include "implicitgrad/matrix.hpp"

namespace implicitgrad::kernels {

/// Doubles that column_pass needs for itself.
template <class T>
index column_pass_workspace(index cols, index k);

/// out += X[begin:end]ᵀ W with W = row_op(X[begin:end] V); arguments as in Matrix::pass, columns of
/// X being `stride` apart.
template <class T>
void column_pass(const T* x, index stride, index cols, index begin, index end, const double* v,
                 index ld, index k, row_function row_op, double* out, double* workspace);

}  // namespace implicitgrad::kernels
