#include "implicitgrad/dense_matrix.hpp"

#include <algorithm>
#include <vector>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/multiversion.hpp"
#include "kernels/column_pass.hpp"
#include "kernels/row_pass.hpp"

namespace implicitgrad {

namespace {

// The two leaf kernels work on `lines`: rows of a row-major matrix or columns of a column-major
// one, each `length` entries of contiguous memory, `stride` apart. With A the lines as rows,
//
//   line_dot:   out_c += A v_c       line_axpy:   out_c += Aᵀ w_c       for the k columns c.
//
// Four lines go together, so that v (or out) is loaded once for four lines of A. They are a quarter
// of the panel apart: each is then read on into its successor, in streams that are long enough for
// the hardware's prefetcher.

template <class T>
IMPLICITGRAD_KERNEL void line_dot(const T* a, index stride, index lines, index length,
                                  const double* v, index ldv, index k, double* out, index ldo) {
  const index quarter = lines / 4;
  index i = 0;
  for (; i < quarter; ++i) {
    const T* __restrict a0 = a + i * stride;
    const T* __restrict a1 = a0 + quarter * stride;
    const T* __restrict a2 = a1 + quarter * stride;
    const T* __restrict a3 = a2 + quarter * stride;
    index c = 0;
    for (; c + 2 <= k; c += 2) {
      const double* __restrict v0 = v + c * ldv;
      const double* __restrict v1 = v0 + ldv;
      double s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
#pragma omp simd reduction(+ : s00, s01, s02, s03, s10, s11, s12, s13)
      for (index j = 0; j < length; ++j) {
        const double x = v0[j], y = v1[j];
        s00 += a0[j] * x, s01 += a1[j] * x, s02 += a2[j] * x, s03 += a3[j] * x;
        s10 += a0[j] * y, s11 += a1[j] * y, s12 += a2[j] * y, s13 += a3[j] * y;
      }
      double* o0 = out + c * ldo + i;
      double* o1 = o0 + ldo;
      o0[0] += s00, o0[quarter] += s01, o0[2 * quarter] += s02, o0[3 * quarter] += s03;
      o1[0] += s10, o1[quarter] += s11, o1[2 * quarter] += s12, o1[3 * quarter] += s13;
    }
    for (; c < k; ++c) {
      const double* __restrict v0 = v + c * ldv;
      double s0 = 0, s1 = 0, s2 = 0, s3 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3)
      for (index j = 0; j < length; ++j) {
        const double x = v0[j];
        s0 += a0[j] * x, s1 += a1[j] * x, s2 += a2[j] * x, s3 += a3[j] * x;
      }
      double* o = out + c * ldo + i;
      o[0] += s0, o[quarter] += s1, o[2 * quarter] += s2, o[3 * quarter] += s3;
    }
  }
  for (i = 4 * quarter; i < lines; ++i) {
    const T* __restrict a0 = a + i * stride;
    for (index c = 0; c < k; ++c) {
      const double* __restrict v0 = v + c * ldv;
      double s = 0;
#pragma omp simd reduction(+ : s)
      for (index j = 0; j < length; ++j) s += a0[j] * v0[j];
      out[c * ldo + i] += s;
    }
  }
}

template <class T>
IMPLICITGRAD_KERNEL void line_axpy(const T* a, index stride, index lines, index length,
                                   const double* w, index ldw, index k, double* out, index ldo) {
  const index quarter = lines / 4;
  index i = 0;
  for (; i < quarter; ++i) {
    const T* __restrict a0 = a + i * stride;
    const T* __restrict a1 = a0 + quarter * stride;
    const T* __restrict a2 = a1 + quarter * stride;
    const T* __restrict a3 = a2 + quarter * stride;
    for (index c = 0; c < k; ++c) {
      const double* wc = w + c * ldw + i;
      const double w0 = wc[0], w1 = wc[quarter], w2 = wc[2 * quarter], w3 = wc[3 * quarter];
      double* __restrict o = out + c * ldo;
#pragma omp simd
      for (index j = 0; j < length; ++j)
        o[j] += (a0[j] * w0 + a1[j] * w1) + (a2[j] * w2 + a3[j] * w3);
    }
  }
  for (i = 4 * quarter; i < lines; ++i) {
    const T* __restrict a0 = a + i * stride;
    for (index c = 0; c < k; ++c) {
      const double w0 = w[c * ldw + i];
      double* __restrict o = out + c * ldo;
#pragma omp simd
      for (index j = 0; j < length; ++j) o[j] += a0[j] * w0;
    }
  }
}

/// out_i += Σ_j v_j a_ij².
template <class T>
IMPLICITGRAD_KERNEL void line_square_dot(const T* a, index stride, index lines, index length,
                                         const double* v, double* out) {
  for (index i = 0; i < lines; ++i) {
    const T* __restrict line = a + i * stride;
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (index j = 0; j < length; ++j) {
      const double x = line[j];
      s += v[j] * x * x;
    }
    out[i] += s;
  }
}

/// out_i = Σ_j a_ij².
template <class T>
IMPLICITGRAD_KERNEL void line_squares(const T* a, index stride, index lines, index length,
                                      double* out) {
  for (index i = 0; i < lines; ++i) {
    const T* __restrict line = a + i * stride;
    double s = 0;
#pragma omp simd reduction(+ : s)
    for (index j = 0; j < length; ++j) {
      const double x = line[j];
      s += x * x;
    }
    out[i] = s;
  }
}

/// out_j += Σ_i w_i a_ij².
template <class T>
IMPLICITGRAD_KERNEL void line_square_axpy(const T* a, index stride, index lines, index length,
                                          const double* w, double* __restrict out) {
  for (index i = 0; i < lines; ++i) {
    const T* __restrict line = a + i * stride;
#pragma omp simd
    for (index j = 0; j < length; ++j) {
      const double x = line[j];
      out[j] += w[i] * x * x;
    }
  }
}

/// out = scale · line, as doubles.
template <class T>
IMPLICITGRAD_KERNEL void line_copy(const T* __restrict line, index length, double scale,
                                   double* __restrict out) {
#pragma omp simd
  for (index j = 0; j < length; ++j) out[j] = scale * line[j];
}

/// 0 · x is 0 for a finite x and NaN otherwise; the sum keeps a NaN.
template <class T>
IMPLICITGRAD_KERNEL T line_zero_sum(const T* a, index stride, index lines, index length) {
  T total = 0;
  for (index i = 0; i < lines; ++i) {
    const T* __restrict line = a + i * stride;
    T s = 0;
#pragma omp simd reduction(+ : s)
    for (index j = 0; j < length; ++j) s += line[j] * T{0};
    total += s;
  }
  return total;
}

/// A panel is used twice and should come from memory once: it and the next one stay in the
/// second-level cache. Column-major, runs should be long all the same.
template <class T>
index choose_panel(index cols, layout order) {
  constexpr index row_major = index{256} << 10, column_major = index{512} << 10;
  const index row_bytes = std::max<index>(cols, 1) * static_cast<index>(sizeof(T));
  if (order == layout::row_major) return std::clamp<index>(row_major / row_bytes / 16 * 16, 4, 256);
  return std::clamp<index>(column_major / row_bytes / 16 * 16, 64, 1024);
}

}  // namespace

template <class T>
dense_matrix<T>::dense_matrix(const T* data, index rows, index cols, index ld, layout order)
    : data_(data),
      rows_(rows),
      cols_(cols),
      ld_(ld),
      order_(order),
      panel_rows_(choose_panel<T>(cols, order)) {
  require(rows > 0 && cols > 0, "X must have at least one row and one column");
  require(ld >= (order == layout::row_major ? cols : rows), "X has overlapping rows or columns");
  ones_.assign(static_cast<std::size_t>(cols), 1.0);
}

template <class T>
void dense_matrix<T>::dot(index begin, index end, const double* v, index ld, index k, double* z,
                          index ldz) const {
  const index rows = end - begin;
  for (index c = 0; c < k; ++c) std::fill_n(z + c * ldz, rows, 0.0);
  if (order_ == layout::row_major)
    line_dot(data_ + begin * ld_, ld_, rows, cols_, v, ld, k, z, ldz);
  else
    line_axpy(data_ + begin, ld_, cols_, rows, v, ld, k, z, ldz);
}

template <class T>
void dense_matrix<T>::accumulate(index begin, index end, const double* w, index ldz, index k,
                                 double* out, index ld) const {
  const index rows = end - begin;
  if (order_ == layout::row_major)
    line_axpy(data_ + begin * ld_, ld_, rows, cols_, w, ldz, k, out, ld);
  else
    line_dot(data_ + begin, ld_, cols_, rows, w, ldz, k, out, ld);
}

template <class T>
bool dense_matrix<T>::in_strips() const {
  return order_ == layout::row_major && kernels::row_pass_fits(cols_);
}

template <class T>
index dense_matrix<T>::pass_workspace(index k) const {
  if (order_ == layout::column_major) return kernels::column_pass_workspace<T>(cols_, k);
  return in_strips() ? kernels::row_pass_workspace<T>(cols_, k) : Matrix::pass_workspace(k);
}

template <class T>
void dense_matrix<T>::pass(index begin, index end, const double* v, index ld, index k,
                           row_function row_op, double* out, double* workspace) const {
  if (order_ == layout::column_major)
    kernels::column_pass(data_, ld_, cols_, begin, end, v, ld, k, row_op, out, workspace);
  else if (in_strips())
    kernels::row_pass(data_, ld_, cols_, begin, end, v, ld, k, row_op, out, workspace);
  else
    Matrix::pass(begin, end, v, ld, k, row_op, out, workspace);
}

template <class T>
void dense_matrix<T>::accumulate_squares(index begin, index end, const double* w,
                                         double* out) const {
  const index rows = end - begin;
  if (order_ == layout::row_major)
    line_square_axpy(data_ + begin * ld_, ld_, rows, cols_, w, out);
  else
    line_square_dot(data_ + begin, ld_, cols_, rows, w, out);
}

template <class T>
void dense_matrix<T>::row_squares(index begin, index end, double* out) const {
  const index rows = end - begin;
  if (order_ == layout::row_major) {
    line_squares(data_ + begin * ld_, ld_, rows, cols_, out);
    return;
  }
  std::fill_n(out, rows, 0.0);
  line_square_axpy(data_ + begin, ld_, cols_, rows, ones_.data(), out);
}

template <class T>
void dense_matrix<T>::copy_scaled(index begin, index end, const double* scale, double* out,
                                  index ld) const {
  const index rows = end - begin;
  if (order_ == layout::row_major) {
    for (index i = 0; i < rows; ++i)
      line_copy(data_ + (begin + i) * ld_, cols_, scale[i], out + i * ld);
  } else {
    for (index j = 0; j < cols_; ++j) {
      const T* line = data_ + j * ld_ + begin;
      for (index i = 0; i < rows; ++i) out[i * ld + j] = scale[i] * line[i];
    }
  }
}

template <class T>
bool dense_matrix<T>::finite(index begin, index end) const {
  const index rows = end - begin;
  const T sum = order_ == layout::row_major ? line_zero_sum(data_ + begin * ld_, ld_, rows, cols_)
                                            : line_zero_sum(data_ + begin, ld_, cols_, rows);
  return sum == T{0};
}

template class dense_matrix<double>;
template class dense_matrix<float>;

}  // namespace implicitgrad
