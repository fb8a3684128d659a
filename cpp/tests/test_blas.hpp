// The BLAS that C++ tests and benchmarks hand to the core.
#pragma once

namespace implicitgrad::testing {

/// Fills the core's table from the system's BLAS and LAPACK, or from the reference below where the
/// build found none.
void fill_blas();

/// "system" or "reference".
const char* blas_name();

// A naive column-major reference with Fortran's calling convention, for uplo = 'L', trans = 'N':
// what the core calls.
void reference_dsyrk(const char* uplo, const char* trans, const int* n, const int* k,
                     const double* alpha, const double* a, const int* lda, const double* beta,
                     double* c, const int* ldc);
void reference_dpotrf(const char* uplo, const int* n, double* a, const int* lda, int* info);
void reference_dpotrs(const char* uplo, const int* n, const int* nrhs, const double* a,
                      const int* lda, double* b, const int* ldb, int* info);

}  // namespace implicitgrad::testing
