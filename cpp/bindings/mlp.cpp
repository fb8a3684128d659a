// Networks, and the BLAS they use.
#include "implicitgrad/mlp.hpp"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "implicitgrad/blas.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// The function in a capsule of SciPy's whose name is its signature; null where that has integers
/// of another width.
template <class T>
gemm_function<T> function_in(const py::capsule& capsule) {
  const std::string signature = capsule.name();
  if (signature.rfind("void (char *, char *, int *, int *, int *, ", 0) != 0) return nullptr;
  return reinterpret_cast<gemm_function<T>>(capsule.get_pointer<void>());
}

using labels = py::array_t<index, py::array::c_style | py::array::forcecast>;

std::shared_ptr<mlp_architecture> make_architecture(std::vector<index> widths,
                                                    std::string activation, std::string loss,
                                                    double fixed, index n_groups,
                                                    const labels& group) {
  auto made = std::make_shared<mlp_architecture>();
  made->widths = std::move(widths);
  made->activation = std::move(activation), made->loss = std::move(loss);
  made->penalty = {fixed, n_groups, {}, {group.data(), group.data() + group.size()}};
  made->lay_out();
  return made;
}

}  // namespace

void register_mlp(py::module_& m) {
  m.def("set_blas", [](const py::capsule& dgemm, const py::capsule& sgemm) {
    const blas_table table{function_in<double>(dgemm), function_in<float>(sgemm)};
    if (!table.dgemm || !table.sgemm) return false;
    set_blas(table);
    return true;
  });
  py::class_<mlp_architecture, std::shared_ptr<mlp_architecture>>(m, "MlpArchitecture")
      .def(py::init(&make_architecture), py::arg("widths"), py::arg("activation"), py::arg("loss"),
           py::arg("fixed"), py::arg("n_groups"), py::arg("group"));
  m.def(
      "mlp",
      [](std::shared_ptr<mlp_architecture> architecture, std::shared_ptr<Matrix> x,
         const block_array& y, const block_array& weights, int n_threads) {
        return make_mlp(std::move(architecture), std::move(x), to_vector(y), to_vector(weights),
                        n_threads);
      },
      py::arg("architecture"), py::arg("x"), py::arg("y"), py::arg("weights"),
      py::arg("n_threads"));
}

}  // namespace implicitgrad::python
