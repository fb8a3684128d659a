// What the bindings of linear models share.
#pragma once

#include <memory>

#include "arrays.hpp"
#include "implicitgrad/linear_model.hpp"

namespace implicitgrad::python {

using linearization = linear_model_linearization;
using labels = py::array_t<index, py::array::c_style | py::array::forcecast>;

inline std::vector<index> to_indices(const labels& a) { return {a.data(), a.data() + a.size()}; }

inline penalty to_penalty(double fixed, index n_groups, const labels& group) {
  return {fixed, n_groups, to_indices(group)};
}

}  // namespace implicitgrad::python
