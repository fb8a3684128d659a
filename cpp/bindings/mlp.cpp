// Networks, and the BLAS they use.
#include "implicitgrad/mlp.hpp"

#include <pybind11/stl.h>

#include <memory>
#include <string>
#include <utility>

#include "arrays.hpp"
#include "implicitgrad/blas.hpp"
#include "implicitgrad/symmetric_eigen.hpp"
#include "register.hpp"

namespace implicitgrad::python {

namespace {

/// The function in a capsule of SciPy's whose name is its signature; null where that begins in
/// another way, say with integers of another width.
template <class Function>
Function function_in(const py::capsule& capsule, const char* begin) {
  const std::string signature = capsule.name();
  if (signature.rfind(begin, 0) != 0) return nullptr;
  return reinterpret_cast<Function>(capsule.get_pointer<void>());
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
  m.def("set_blas",
        [](const py::capsule& dgemm, const py::capsule& sgemm, const py::capsule& dsyevd) {
          constexpr auto gemm = "void (char *, char *, int *, int *, int *, ";
          const blas_table table{function_in<gemm_function<double>>(dgemm, gemm),
                                 function_in<gemm_function<float>>(sgemm, gemm)};
          const auto syevd = function_in<syevd_function>(dsyevd, "void (char *, char *, int *, ");
          if (!table.dgemm || !table.sgemm || !syevd) return false;
          set_blas(table);
          set_syevd(syevd);
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
