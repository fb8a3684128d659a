// Random numbers that are the same everywhere, and at any order of asking: functions of a counter.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace implicitgrad {

/// A well-mixed function of the state (G. Steele, D. Lea, C. Flood, "Fast splittable pseudorandom
/// number generators", OOPSLA 2014).
inline std::uint64_t mixed(std::uint64_t state) {
  state += 0x9e3779b97f4a7c15u;
  state = (state ^ (state >> 30)) * 0xbf58476d1ce4e5b9u;
  state = (state ^ (state >> 27)) * 0x94d049bb133111ebu;
  return state ^ (state >> 31);
}

/// Number `counter` of a stream of independent normal variables (G. Box, M. Muller, "A note on the
/// generation of random normal deviates", Annals of Mathematical Statistics 29, 1958).
inline double normal(std::uint64_t stream, std::uint64_t counter) {
  const std::uint64_t first = mixed(stream ^ mixed(counter / 2)), second = mixed(first);
  const double u = (static_cast<double>(first >> 11) + 1.0) * 0x1p-53;  // (0, 1]
  const double angle = 2.0 * std::numbers::pi * static_cast<double>(second >> 11) * 0x1p-53;
  return std::sqrt(-2.0 * std::log(u)) * (counter % 2 == 0 ? std::cos(angle) : std::sin(angle));
}

}  // namespace implicitgrad
