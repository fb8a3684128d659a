# The BLAS of the C++ tests and benchmarks, as the library implicitgrad_test_blas: the system's where
# CMake finds one, else a naive reference that only needs a C++ compiler. The core itself links none.
option(IMPLICITGRAD_REFERENCE_BLAS "Tests and benchmarks use a naive BLAS of their own" OFF)

add_library(implicitgrad_test_blas STATIC
  ${PROJECT_SOURCE_DIR}/cpp/tests/fill_blas.cpp
  ${PROJECT_SOURCE_DIR}/cpp/tests/reference_blas.cpp)
target_include_directories(implicitgrad_test_blas PUBLIC ${PROJECT_SOURCE_DIR}/cpp/tests)
target_link_libraries(implicitgrad_test_blas PUBLIC implicitgrad_core)

if(NOT IMPLICITGRAD_REFERENCE_BLAS)
  find_package(BLAS QUIET)
  find_package(LAPACK QUIET)
endif()
if(NOT IMPLICITGRAD_REFERENCE_BLAS AND BLAS_FOUND AND LAPACK_FOUND)
  target_compile_definitions(implicitgrad_test_blas PRIVATE IMPLICITGRAD_SYSTEM_BLAS)
  target_link_libraries(implicitgrad_test_blas PUBLIC LAPACK::LAPACK BLAS::BLAS)
  message(STATUS "BLAS of the C++ tests and benchmarks: ${LAPACK_LIBRARIES} ${BLAS_LIBRARIES}")
else()
  message(STATUS "BLAS of the C++ tests and benchmarks: the naive reference")
endif()
