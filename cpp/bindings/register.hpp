#pragma once

#include <pybind11/pybind11.h>

namespace py = pybind11;

namespace implicitgrad::python {

void register_runtime(py::module_& m);
void register_operators(py::module_& m);
void register_solvers(py::module_& m);
void register_matrices(py::module_& m);
void register_linearizations(py::module_& m);
void register_models(py::module_& m);
void register_hyper(py::module_& m);
void register_mlp(py::module_& m);
void register_training(py::module_& m);
void register_unrolling(py::module_& m);

}  // namespace implicitgrad::python
