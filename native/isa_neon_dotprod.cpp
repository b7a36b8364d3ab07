// 64-bit ARM with byte dot products: Cortex-A76, Neoverse N1, Apple A13 and newer.
#include "kernels.h"
#if defined(__aarch64__) && defined(__ARM_FEATURE_DOTPROD)
#include "simd_neon.h"
namespace cadran {
namespace isa_neon_dotprod {
#define KERNELS_NAME "neon_dotprod"
#include "kernels.inc"
}  // namespace isa_neon_dotprod
const Kernels* kernels_neon_dotprod() { return &isa_neon_dotprod::table; }
}  // namespace cadran
#else
namespace cadran {
const Kernels* kernels_neon_dotprod() { return nullptr; }
}  // namespace cadran
#endif
