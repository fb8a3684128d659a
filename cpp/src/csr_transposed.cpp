#include <numeric>
#include <utility>
#include <vector>

#include "implicitgrad/csr_matrix.hpp"

namespace implicitgrad {

namespace {

/// The arrays of Xᵀ in CSR form, which are those of X in CSC form.
template <class T>
struct csr_arrays {
  std::vector<index> indptr, indices;
  std::vector<T> data;
};

template <class T, class I>
csr_arrays<T> transpose(const I* indptr, const I* indices, const T* data, index rows, index cols) {
  const auto entries = static_cast<std::size_t>(indptr[rows]);
  csr_arrays<T> out{std::vector<index>(static_cast<std::size_t>(cols) + 1),
                    std::vector<index>(entries), std::vector<T>(entries)};
  for (std::size_t e = 0; e < entries; ++e) ++out.indptr[indices[e] + 1];
  std::partial_sum(out.indptr.begin(), out.indptr.end(), out.indptr.begin());
  std::vector<index> next(out.indptr.begin(), out.indptr.end() - 1);
  for (index i = 0; i < rows; ++i)
    for (I e = indptr[i]; e < indptr[i + 1]; ++e) {
      const index to = next[indices[e]]++;
      out.indices[to] = i;
      out.data[to] = data[e];
    }
  return out;
}

/// A csr_matrix that owns its arrays.
template <class T>
class owning_csr_matrix : private csr_arrays<T>, public csr_matrix<T, index> {
 public:
  owning_csr_matrix(csr_arrays<T> arrays, index rows, index cols)
      : csr_arrays<T>(std::move(arrays)),
        csr_matrix<T, index>(csr_arrays<T>::indptr.data(), csr_arrays<T>::indices.data(),
                             csr_arrays<T>::data.data(), rows, cols) {}
};

}  // namespace

template <class T, class I>
const Matrix* csr_matrix<T, I>::transposed() const {
  std::call_once(transposed_once_, [&] {
    transposed_ = std::make_unique<owning_csr_matrix<T>>(
        transpose(indptr_, indices_, data_, rows_, cols_), cols_, rows_);
  });
  return transposed_.get();
}

template const Matrix* csr_matrix<double, std::int32_t>::transposed() const;
template const Matrix* csr_matrix<double, std::int64_t>::transposed() const;
template const Matrix* csr_matrix<float, std::int32_t>::transposed() const;
template const Matrix* csr_matrix<float, std::int64_t>::transposed() const;

}  // namespace implicitgrad
