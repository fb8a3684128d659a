// NumPy arrays to and from the core's blocks. A vector is an array of shape (n,); a block of k
// vectors has shape (n, k) and is stored by columns.
#pragma once

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "implicitgrad/errors.hpp"
#include "implicitgrad/types.hpp"

namespace implicitgrad::python {

namespace py = pybind11;

using block_array = py::array_t<double, py::array::f_style | py::array::forcecast>;

/// The array as n × k; throws std::invalid_argument naming it where it does not have n rows.
inline const_block as_block(const block_array& a, index n, const char* name) {
  const bool fits = (a.ndim() == 1 || a.ndim() == 2) && a.shape(0) == n;
  if (!fits) {
    std::string shape;
    for (py::ssize_t i = 0; i < a.ndim(); ++i)
      shape += (i > 0 ? ", " : "") + std::to_string(a.shape(i));
    require(false, std::string(name) + " has shape (" + shape + "), expected (" +
                       std::to_string(n) + ",) or (" + std::to_string(n) + ", k)");
  }
  return {a.data(), n, a.ndim() == 2 ? a.shape(1) : 1};
}

/// The entries of one vector of length n.
inline const double* as_vector(const block_array& a, index n, const char* name) {
  const const_block in = as_block(a, n, name);
  require(in.cols == 1, std::string(name) + " must be one-dimensional");
  return in.data;
}

/// A new array with n rows and as many columns and dimensions as `like`.
inline block_array empty_like_block(const block_array& like, index n) {
  if (like.ndim() == 2) return block_array(std::vector<py::ssize_t>{n, like.shape(1)});
  return block_array(std::vector<py::ssize_t>{n});
}

inline block as_output(block_array& a) {
  return {a.mutable_data(), a.shape(0), a.ndim() == 2 ? a.shape(1) : 1};
}

/// A copy, so that no view of the core's memory reaches the user.
inline py::array_t<double> copy_vector(const std::vector<double>& v) {
  return py::array_t<double>(static_cast<py::ssize_t>(v.size()), v.data());
}

/// The entries, column after column.
inline std::vector<double> to_vector(const block_array& a) {
  return {a.data(), a.data() + a.size()};
}

}  // namespace implicitgrad::python
