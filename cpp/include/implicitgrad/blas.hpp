// The few BLAS and LAPACK routines the core calls, as a table of pointers with Fortran's calling
// convention (32-bit integers). Whoever loads the core fills it: the core ships no BLAS.
#pragma once

namespace implicitgrad {

struct blas_table {
  void (*dsyrk)(const char* uplo, const char* trans, const int* n, const int* k,
                const double* alpha, const double* a, const int* lda, const double* beta, double* c,
                const int* ldc) = nullptr;
  void (*dpotrf)(const char* uplo, const int* n, double* a, const int* lda, int* info) = nullptr;
  void (*dpotrs)(const char* uplo, const int* n, const int* nrhs, const double* a, const int* lda,
                 double* b, const int* ldb, int* info) = nullptr;
};

void set_blas(const blas_table& table);

/// The table; throws std::logic_error while it has not been filled.
const blas_table& blas();

}  // namespace implicitgrad
