#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "test_blas.hpp"

int main(int argc, char** argv) {
  implicitgrad::testing::fill_blas();
  return doctest::Context(argc, argv).run();
}
