// Plain C++: runs everywhere, and is what the other instruction sets are tested against.
#include "kernels.h"
#include "simd_scalar.h"
namespace cadran {
namespace isa_scalar {
#define KERNELS_NAME "scalar"
#define UNROLL  // lanes are loops here already; unrolled they take the compiler minutes
#include "kernels.inc"
}  // namespace isa_scalar
const Kernels* kernels_scalar() { return &isa_scalar::table; }
}  // namespace cadran
