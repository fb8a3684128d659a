#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "implicitgrad/parallel.hpp"

int main(int argc, char** argv) {
  implicitgrad::work_burst::patience =
      std::chrono::nanoseconds{0};  // threads in every loop, however short
  return doctest::Context(argc, argv).run();
}
