// Matrices over NumPy and SciPy memory.
#include <algorithm>
#include <memory>
#include <string>

#include "arrays.hpp"
#include "implicitgrad/csr_matrix.hpp"
#include "implicitgrad/dense_matrix.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// Keeps the array alive whose memory it reads.
template <class T>
class numpy_matrix : public dense_matrix<T> {
 public:
  numpy_matrix(const py::array& x, index ld, layout order)
      : dense_matrix<T>(static_cast<const T*>(x.data()), x.shape(0), x.shape(1), ld, order),
        owner_(x) {}

 private:
  py::array owner_;
};

template <class T>
std::shared_ptr<Matrix> borrow(const py::array& x) {
  const auto item = static_cast<py::ssize_t>(sizeof(T));
  const index rows = x.shape(0), cols = x.shape(1);
  // The stride along a dimension of length one says nothing.
  const auto contiguous = [&](int axis) { return x.strides(axis) == item || x.shape(axis) == 1; };
  const auto leading = [&](int axis, index least) {
    return x.shape(axis) == 1 ? least : static_cast<index>(x.strides(axis) / item);
  };
  if (contiguous(1) && leading(0, cols) >= cols)
    return std::make_shared<numpy_matrix<T>>(x, leading(0, cols), layout::row_major);
  require(contiguous(0) && leading(1, rows) >= rows, "X must be C- or F-ordered");
  return std::make_shared<numpy_matrix<T>>(x, leading(1, rows), layout::column_major);
}

std::shared_ptr<Matrix> make_dense(const py::array& x) {
  require(x.ndim() == 2, "X must be two-dimensional");
  if (py::isinstance<py::array_t<double>>(x)) return borrow<double>(x);
  require(py::isinstance<py::array_t<float>>(x), "X must be float64 or float32");
  return borrow<float>(x);
}

/// Keeps the arrays alive whose memory it reads.
template <class T, class I>
class numpy_csr : public csr_matrix<T, I> {
 public:
  numpy_csr(const py::array& indptr, const py::array& indices, const py::array& data, index cols)
      : csr_matrix<T, I>(static_cast<const I*>(indptr.data()),
                         static_cast<const I*>(indices.data()), static_cast<const T*>(data.data()),
                         indptr.shape(0) - 1, cols),
        owners_{indptr, indices, data} {}

 private:
  py::array owners_[3];
};

void require_vector(const py::array& a, const char* name) {
  require(a.ndim() == 1 && (a.flags() & py::array::c_style) != 0,
          std::string(name) + " must be one-dimensional and contiguous");
}

/// Whether both arrays hold this integer type.
template <class I>
bool both_are(const py::array& a, const py::array& b) {
  return py::isinstance<py::array_t<I>>(a) && py::isinstance<py::array_t<I>>(b);
}

const char* name_of(csr_fault fault) {
  switch (fault) {
    case csr_fault::none:
      return "";
    case csr_fault::not_canonical:
      return "not canonical";
    case csr_fault::start:
      return "start";
    case csr_fault::decreasing:
      return "decreasing";
    case csr_fault::too_long:
      return "too long";
    case csr_fault::out_of_range:
      break;
  }
  return "out of range";
}

template <class T, class I>
py::tuple borrow_csr(const py::array& indptr, const py::array& indices, const py::array& data,
                     index cols, int n_threads) {
  const auto* starts = static_cast<const I*>(indptr.data());
  const auto* columns = static_cast<const I*>(indices.data());
  const index rows = indptr.shape(0) - 1, available = std::min(indices.shape(0), data.shape(0));
  csr_verdict verdict;
  std::shared_ptr<Matrix> matrix;
  {
    py::gil_scoped_release release;
    verdict = check_csr(starts, columns, rows, cols, available, n_threads);
  }
  if (verdict.fault == csr_fault::none)
    matrix = std::make_shared<numpy_csr<T, I>>(indptr, indices, data, cols);
  return py::make_tuple(matrix, name_of(verdict.fault), verdict.at);
}

/// (matrix, "", 0), or (None, what is wrong with the index arrays, where); see csr_fault.
py::tuple make_csr(const py::array& indptr, const py::array& indices, const py::array& data,
                   index cols, int n_threads) {
  require_vector(indptr, "indptr");
  require_vector(indices, "indices");
  require_vector(data, "data");
  require(indptr.shape(0) > 1 && cols > 0, "X must have at least one row and one column");
  const auto of = [&]<class I>(I) {
    if (py::isinstance<py::array_t<double>>(data))
      return borrow_csr<double, I>(indptr, indices, data, cols, n_threads);
    require(py::isinstance<py::array_t<float>>(data), "X must be float64 or float32");
    return borrow_csr<float, I>(indptr, indices, data, cols, n_threads);
  };
  if (both_are<std::int32_t>(indptr, indices)) return of(std::int32_t{});
  require(both_are<std::int64_t>(indptr, indices), "indices must be int32 or int64");
  return of(std::int64_t{});
}

}  // namespace

void register_matrices(py::module_& m) {
  py::class_<Matrix, std::shared_ptr<Matrix>>(m, "Matrix")
      .def_property_readonly("rows", &Matrix::rows)
      .def_property_readonly("cols", &Matrix::cols)
      .def("all_finite", [](const Matrix& x, int n_threads) {
        py::gil_scoped_release release;
        return all_finite(x, n_threads);
      });
  m.def("dense_matrix", &make_dense);
  m.def("csr_matrix", &make_csr, py::arg("indptr"), py::arg("indices"), py::arg("data"),
        py::arg("cols"), py::arg("n_threads"));
}

}  // namespace implicitgrad::python
