// AVX-512 with VNNI: Intel since Ice Lake (servers) and Cascade Lake, AMD since Zen 4.
#include "kernels.h"
#if defined(__AVX512F__) && defined(__AVX512VNNI__)
#include "simd_avx512.h"
namespace cadran {
namespace isa_avx512vnni {
#define KERNELS_NAME "avx512vnni"
#include "kernels.inc"
}  // namespace isa_avx512vnni
const Kernels* kernels_avx512vnni() { return &isa_avx512vnni::table; }
}  // namespace cadran
#else
namespace cadran {
const Kernels* kernels_avx512vnni() { return nullptr; }
}  // namespace cadran
#endif
