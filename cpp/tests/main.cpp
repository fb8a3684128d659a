#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest/doctest.h>

#include "implicitgrad/parallel.hpp"

int main(int argc, char** argv) {
  implicitgrad::work_burst::patience = {};  // threads in every loop, however short
  return doctest::Context(argc, argv).run();
}
