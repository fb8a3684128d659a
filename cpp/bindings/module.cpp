// The extension module: a list of what is registered. Translation only; no numerics here.
#include "register.hpp"

PYBIND11_MODULE(_core, m, py::mod_gil_not_used()) {
  using namespace implicitgrad::python;
  register_runtime(m);
  register_operators(m);
  register_solvers(m);
  register_matrices(m);
  register_linearizations(m);
  register_models(m);
  register_mlp(m);
  register_hyper(m);
  register_training(m);
  register_unrolling(m);
}
