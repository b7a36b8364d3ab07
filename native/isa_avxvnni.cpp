// AVX2 with byte products in 256-bit registers: Intel desktops and laptops since Alder Lake, AMD since Zen 5.
#include "kernels.h"
#if defined(__AVX2__) && defined(__AVXVNNI__)
#include "simd_avx2.h"
namespace cadran {
namespace isa_avxvnni {
#define KERNELS_NAME "avxvnni"
#include "kernels.inc"
}  // namespace isa_avxvnni
const Kernels* kernels_avxvnni() { return &isa_avxvnni::table; }
}  // namespace cadran
#else
namespace cadran {
const Kernels* kernels_avxvnni() { return nullptr; }
}  // namespace cadran
#endif
