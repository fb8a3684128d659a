// Bad arguments are std::invalid_argument. Numbers that go bad inside a solve are never exceptions;
// they are a `solve_status`.
#pragma once

#include <stdexcept>
#include <string>

namespace implicitgrad {

inline void require(bool condition, const std::string& message) {
  if (!condition) throw std::invalid_argument(message);
}

}  // namespace implicitgrad
