// One row block of a pass over a row-major matrix: see row_pass.cpp.
#pragma once

#include "implicitgrad/matrix.hpp"

namespace implicitgrad::kernels {

/// Whether X is wide enough for row_pass: one vector register.
bool row_pass_fits(index cols);

/// Doubles that row_pass needs for itself.
template <class T>
index row_pass_workspace(index cols, index k);

/// out += X[begin:end]ᵀ W with W = row_op(X[begin:end] V); arguments as in Matrix::pass.
template <class T>
void row_pass(const T* x, index row_stride, index cols, index begin, index end, const double* v,
              index ld, index k, row_function row_op, double* out, double* workspace);

}  // namespace implicitgrad::kernels
