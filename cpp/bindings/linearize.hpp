// What the models that linearise in the core share.
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

template <class Model>
std::shared_ptr<linearization> linearize(const Model& f, const block_array& theta,
                                         const block_array& lam, bool remember) {
  const const_block at = as_block(theta, f.n_theta(), "theta");
  const const_block hyper = as_block(lam, f.n_lam(), "lam");
  require(at.cols == 1 && hyper.cols == 1, "theta and lam must be one-dimensional");
  py::gil_scoped_release release;
  return std::const_pointer_cast<linearization>(std::static_pointer_cast<const linearization>(
      remember ? f.linearize(at.data, hyper.data) : f.glance(at.data, hyper.data)));
}

}  // namespace implicitgrad::python
