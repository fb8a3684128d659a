// A = U diag(values) Uᵀ for a symmetric A.
#pragma once

#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// dsyevd as LAPACK has it, with 32-bit integers.
using syevd_function = void (*)(char* job, char* triangle, int* n, double* a, int* lda,
                                double* values, double* work, int* lwork, int* iwork, int* liwork,
                                int* info);

/// For the whole process, before the first use. Null stands for Jacobi's rotations, for tests.
void set_syevd(syevd_function function);

/// Overwrites A, column-major n × n, of which the lower triangle is read, with the eigenvectors,
/// one a column; values in increasing order. False where they were not found. Not to be called
/// inside a parallel region.
///
/// Cost: about 9 n³ flops, half of them at the speed of matrix products.
bool symmetric_eigen(index n, double* a, double* values);

}  // namespace implicitgrad
