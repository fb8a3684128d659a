#include <numeric>
#include <utility>
#include <vector>

#include "implicitgrad/csr_matrix.hpp"

namespace implicitgrad {

namespace {

/// The arrays of Xᵀ in CSR form, which are those of X in CSC form.
template <class T, class I>
struct csr_arrays {
  std::vector<I> indptr, indices;
  std::vector<T> data;
};

template <class T, class I>
csr_arrays<T, I> transpose(const I* indptr, const I* indices, const T* data, index rows,
                           index cols) {
  const auto entries = static_cast<std::size_t>(indptr[rows]);
  csr_arrays<T, I> out{std::vector<I>(static_cast<std::size_t>(cols) + 1), std::vector<I>(entries),
                       std::vector<T>(entries)};
  for (std::size_t e = 0; e < entries; ++e) ++out.indptr[indices[e] + 1];
  std::partial_sum(out.indptr.begin(), out.indptr.end(), out.indptr.begin());
  std::vector<I> next(out.indptr.begin(), out.indptr.end() - 1);
  for (index i = 0; i < rows; ++i)
    for (I e = indptr[i]; e < indptr[i + 1]; ++e) {
      const I to = next[indices[e]]++;
      out.indices[to] = static_cast<I>(i);
      out.data[to] = data[e];
    }
  return out;
}

/// A csr_matrix that owns its arrays.
template <class T, class I>
class owning_csr_matrix : private csr_arrays<T, I>, public csr_matrix<T, I> {
 public:
  owning_csr_matrix(csr_arrays<T, I> arrays, index rows, index cols)
      : csr_arrays<T, I>(std::move(arrays)),
        csr_matrix<T, I>(csr_arrays<T, I>::indptr.data(), csr_arrays<T, I>::indices.data(),
                         csr_arrays<T, I>::data.data(), rows, cols) {}
};

}  // namespace

template <class T, class I>
double csr_matrix<T, I>::outer_column_terms() const {
  std::call_once(counted_once_, [&] {
    std::vector<index> counts(static_cast<std::size_t>(cols_));
    for (index e = 0; e < entries(); ++e) ++counts[indices_[e]];
    for (const index count : counts)
      outer_column_terms_ += 0.5 * static_cast<double>(count) * static_cast<double>(count + 1);
  });
  return outer_column_terms_;
}

template <class T, class I>
const Matrix* csr_matrix<T, I>::transposed() const {
  std::call_once(transposed_once_, [&] {
    transposed_ = std::make_unique<owning_csr_matrix<T, I>>(
        transpose(indptr_, indices_, data_, rows_, cols_), cols_, rows_);
  });
  return transposed_.get();
}

template double csr_matrix<double, std::int32_t>::outer_column_terms() const;
template const Matrix* csr_matrix<double, std::int32_t>::transposed() const;
template double csr_matrix<double, std::int64_t>::outer_column_terms() const;
template const Matrix* csr_matrix<double, std::int64_t>::transposed() const;
template double csr_matrix<float, std::int32_t>::outer_column_terms() const;
template const Matrix* csr_matrix<float, std::int32_t>::transposed() const;
template double csr_matrix<float, std::int64_t>::outer_column_terms() const;
template const Matrix* csr_matrix<float, std::int64_t>::transposed() const;

}  // namespace implicitgrad
