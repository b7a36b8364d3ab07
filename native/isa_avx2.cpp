// AVX2 with FMA and half precision: Intel since Haswell, AMD since Zen.
#include "kernels.h"
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#include "simd_avx2.h"
namespace cadran {
namespace isa_avx2 {
#define KERNELS_NAME "avx2"
#include "kernels.inc"
}  // namespace isa_avx2
const Kernels* kernels_avx2() { return &isa_avx2::table; }
}  // namespace cadran
#else
namespace cadran {
const Kernels* kernels_avx2() { return nullptr; }
}  // namespace cadran
#endif
