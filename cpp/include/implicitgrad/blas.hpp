// Matrix products by a BLAS that the core does not bring along: a table of function pointers, which
// the binding fills from SciPy's BLAS. Without one, a plain loop serves, for tests.
#pragma once

#include "implicitgrad/types.hpp"

namespace implicitgrad {

/// ?gemm as Fortran has it, with 32-bit integers.
template <class T>
using gemm_function = void (*)(char* trans_a, char* trans_b, int* m, int* n, int* k, T* alpha, T* a,
                               int* lda, T* b, int* ldb, T* beta, T* c, int* ldc);

struct blas_table {
  gemm_function<double> dgemm = nullptr;
  gemm_function<float> sgemm = nullptr;
};

/// For the whole process; to be called before the first product. Null stands for the plain loop.
void set_blas(const blas_table& table);

/// A matrix of rows `ld` entries apart, or the transpose of one.
template <class T>
struct gemm_operand {
  const T* data;
  index ld;
  bool transposed = false;

  gemm_operand t() const { return {data, ld, !transposed}; }
};

/// C ← A B + β C, C being m × n with rows ldc apart, A m × k and B k × n. The dimensions fit in 32
/// bits. BLAS brings its own threads: never to be called inside a parallel region.
///
/// Cost: 2 m n k flops.
template <class T>
void gemm(index m, index n, index k, gemm_operand<T> a, gemm_operand<T> b, T beta, T* c, index ldc);

}  // namespace implicitgrad
