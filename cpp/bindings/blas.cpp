// Fills the core's BLAS table from the function pointers SciPy publishes for Cython.
#include "implicitgrad/blas.hpp"

#include <stdexcept>
#include <string>

#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// A capsule's name is the C signature of its function; 32-bit integers read "int *".
template <class Function>
void fill(Function*& slot, const py::dict& functions, const char* name) {
  const py::object capsule = functions[name];
  const char* signature = PyCapsule_GetName(capsule.ptr());
  if (signature == nullptr || std::string(signature).find(" int *") == std::string::npos)
    throw std::runtime_error(std::string("SciPy's ") + name +
                             " has an unexpected signature: " + (signature ? signature : "none"));
  slot = reinterpret_cast<Function*>(PyCapsule_GetPointer(capsule.ptr(), signature));
}

}  // namespace

void register_blas(py::module_& m) {
  m.def("load_blas", [](const py::dict& blas_functions, const py::dict& lapack_functions) {
    blas_table table;
    fill(table.dsyrk, blas_functions, "dsyrk");
    fill(table.dpotrf, lapack_functions, "dpotrf");
    fill(table.dpotrs, lapack_functions, "dpotrs");
    set_blas(table);
  });
}

}  // namespace implicitgrad::python
