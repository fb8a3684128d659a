#include "implicitgrad/blas.hpp"

namespace implicitgrad {

namespace {

blas_table table;

gemm_function<double> function_for(double) { return table.dgemm; }
gemm_function<float> function_for(float) { return table.sgemm; }

template <class T>
void plain_gemm(index m, index n, index k, gemm_operand<T> a, gemm_operand<T> b, T beta, T* c,
                index ldc) {
  const auto at = [](const gemm_operand<T>& x, index i, index j) {
    return x.transposed ? x.data[j * x.ld + i] : x.data[i * x.ld + j];
  };
  for (index i = 0; i < m; ++i)
    for (index j = 0; j < n; ++j) {
      T sum = 0;
      for (index l = 0; l < k; ++l) sum += at(a, i, l) * at(b, l, j);
      c[i * ldc + j] = beta == T(0) ? sum : beta * c[i * ldc + j] + sum;
    }
}

}  // namespace

void set_blas(const blas_table& given) { table = given; }

template <class T>
void gemm(index m, index n, index k, gemm_operand<T> a, gemm_operand<T> b, T beta, T* c,
          index ldc) {
  const gemm_function<T> function = function_for(T{});
  if (!function) return plain_gemm(m, n, k, a, b, beta, c, ldc);
  // Rows here are columns in Fortran: Cᵀ = Bᵀ Aᵀ.
  char ta = a.transposed ? 'T' : 'N', tb = b.transposed ? 'T' : 'N';
  int rows = static_cast<int>(n), cols = static_cast<int>(m), depth = static_cast<int>(k);
  int lda = static_cast<int>(a.ld), ldb = static_cast<int>(b.ld), ld = static_cast<int>(ldc);
  T alpha = 1;
  function(&tb, &ta, &rows, &cols, &depth, &alpha, const_cast<T*>(b.data), &ldb,
           const_cast<T*>(a.data), &lda, &beta, c, &ld);
}

template void gemm(index, index, index, gemm_operand<double>, gemm_operand<double>, double, double*,
                   index);
template void gemm(index, index, index, gemm_operand<float>, gemm_operand<float>, float, float*,
                   index);

}  // namespace implicitgrad
