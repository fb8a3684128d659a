// Plain loops after the definitions. They are for machines without a BLAS, and for running the
// tests against a second implementation; nothing here is meant to be fast.
#include <cmath>
#include <cstdlib>

#include "implicitgrad/types.hpp"
#include "test_blas.hpp"

namespace implicitgrad::testing {

namespace {

/// The core asks for nothing else; a wrong answer would be worse than a stop.
void expect(bool supported) {
  if (!supported) std::abort();
}

}  // namespace

// C ← α A Aᵀ + β C, lower triangle. C is not read where β = 0.
void reference_dsyrk(const char* uplo, const char* trans, const int* n, const int* k,
                     const double* alpha, const double* a, const int* lda, const double* beta,
                     double* c, const int* ldc) {
  expect(*uplo == 'L' && *trans == 'N' && *lda >= *n && *ldc >= *n);
  const index size = *n, stride = *lda;
  for (index j = 0; j < size; ++j) {
    double* column = c + j * *ldc;
    for (index i = j; i < size; ++i) column[i] = *beta == 0.0 ? 0.0 : *beta * column[i];
    for (index l = 0; l < *k; ++l) {
      const double factor = *alpha * a[l * stride + j];
      for (index i = j; i < size; ++i) column[i] += factor * a[l * stride + i];
    }
  }
}

// A = L Lᵀ in place, lower triangle; info is the order of the first minor that is not positive.
void reference_dpotrf(const char* uplo, const int* n, double* a, const int* lda, int* info) {
  expect(*uplo == 'L' && *lda >= *n);
  const index size = *n, stride = *lda;
  *info = 0;
  for (index j = 0; j < size; ++j) {
    double* column = a + j * stride;
    for (index l = 0; l < j; ++l) {
      const double factor = a[l * stride + j];
      for (index i = j; i < size; ++i) column[i] -= factor * a[l * stride + i];
    }
    if (!(column[j] > 0.0)) {  // NaN too
      *info = static_cast<int>(j + 1);
      return;
    }
    const double pivot = std::sqrt(column[j]);
    for (index i = j; i < size; ++i) column[i] /= pivot;
  }
}

// Solves L Lᵀ X = B in place.
void reference_dpotrs(const char* uplo, const int* n, const int* nrhs, const double* a,
                      const int* lda, double* b, const int* ldb, int* info) {
  expect(*uplo == 'L' && *lda >= *n && *ldb >= *n);
  const index size = *n, stride = *lda;
  *info = 0;
  for (index c = 0; c < *nrhs; ++c) {
    double* x = b + c * *ldb;
    for (index j = 0; j < size; ++j) {
      x[j] /= a[j * stride + j];
      for (index i = j + 1; i < size; ++i) x[i] -= a[j * stride + i] * x[j];
    }
    for (index j = size - 1; j >= 0; --j) {
      for (index i = j + 1; i < size; ++i) x[j] -= a[j * stride + i] * x[i];
      x[j] /= a[j * stride + j];
    }
  }
}

}  // namespace implicitgrad::testing
