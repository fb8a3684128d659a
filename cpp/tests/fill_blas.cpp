#include "implicitgrad/blas.hpp"
#include "test_blas.hpp"

#ifdef IMPLICITGRAD_SYSTEM_BLAS
extern "C" {
void dsyrk_(const char*, const char*, const int*, const int*, const double*, const double*,
            const int*, const double*, double*, const int*);
void dpotrf_(const char*, const int*, double*, const int*, int*);
void dpotrs_(const char*, const int*, const int*, const double*, const int*, double*, const int*,
             int*);
}
#endif

namespace implicitgrad::testing {

#ifdef IMPLICITGRAD_SYSTEM_BLAS
void fill_blas() { set_blas({dsyrk_, dpotrf_, dpotrs_}); }
const char* blas_name() { return "system"; }
#else
void fill_blas() { set_blas({reference_dsyrk, reference_dpotrf, reference_dpotrs}); }
const char* blas_name() { return "reference"; }
#endif

}  // namespace implicitgrad::testing
