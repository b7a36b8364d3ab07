// 64-bit ARM with the 8-bit matrix extension: Neoverse V1 and N2, Cortex-A710, Apple M2 and newer.
#include "kernels.h"
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD) && defined(__ARM_FEATURE_MATMUL_INT8)
#include "simd_neon.h"
namespace cadran {
namespace isa_neon_i8mm {
#define KERNELS_NAME "neon_i8mm"
#include "kernels.inc"
}  // namespace isa_neon_i8mm
const Kernels* kernels_neon_i8mm() { return &isa_neon_i8mm::table; }
}  // namespace cadran
#else
namespace cadran {
const Kernels* kernels_neon_i8mm() { return nullptr; }
}  // namespace cadran
#endif
