// Which instruction sets this processor and its operating system support.
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernels.h"
#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace cadran {

namespace {

#if defined(__x86_64__)
struct Features {
    bool avx2 = false, avxvnni = false, avx512vnni = false;

    Features() {
        unsigned a = 0, b = 0, c = 0, d = 0;
        if (!__get_cpuid(1, &a, &b, &c, &d)) return;
        const bool fma = c & (1u << 12), f16c = c & (1u << 29), saved = c & (1u << 27);
        if (!saved) return;
        unsigned low = 0, high = 0;  // what the operating system keeps over a switch of threads
        __asm__("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
        if ((low & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d)) return;
        const unsigned most = a;
        avx2 = fma && f16c && (b & (1u << 5));
        const bool wide = (low & 0xe6) == 0xe6;
        const unsigned needed = (1u << 16) | (1u << 17) | (1u << 30) | (1u << 31);  // F, DQ, BW, VL
        avx512vnni = avx2 && wide && (b & needed) == needed && (c & (1u << 11));
        if (most >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d)) avxvnni = avx2 && (a & (1u << 4));
    }
};
#endif

struct Entry {
    const char* name;
    const Kernels* table;
};

// Best first; those that were not compiled or cannot run have no table.
const Entry* entries() {
#if defined(__x86_64__)
    static const Features has;
    static const Entry list[] = {{"avx512vnni", has.avx512vnni ? kernels_avx512vnni() : nullptr},
                                 {"avxvnni", has.avxvnni ? kernels_avxvnni() : nullptr},
                                 {"avx2", has.avx2 ? kernels_avx2() : nullptr},
                                 {"scalar", kernels_scalar()},
                                 {nullptr, nullptr}};
#elif defined(__aarch64__)
#if defined(__linux__)
    static const bool dotprod = getauxval(AT_HWCAP) & (1ul << 20), i8mm = getauxval(AT_HWCAP2) & (1ul << 13);
#else
    static const bool dotprod = true, i8mm = false;  // every Apple processor has the first
#endif
    static const Entry list[] = {{"neon_i8mm", dotprod && i8mm ? kernels_neon_i8mm() : nullptr},
                                 {"neon_dotprod", dotprod ? kernels_neon_dotprod() : nullptr},
                                 {"scalar", kernels_scalar()},
                                 {nullptr, nullptr}};
#else
    static const Entry list[] = {{"scalar", kernels_scalar()}, {nullptr, nullptr}};
#endif
    return list;
}

}  // namespace

const Kernels* choose_kernels(const char* name) {
    for (const Entry* e = entries(); e->name; e++)
        if (e->table && (!name || !std::strcmp(e->name, name))) return e->table;
    return nullptr;
}

const char* usable_kernels() {
    static const std::string names = [] {
        std::string all;
        for (const Entry* e = entries(); e->name; e++)
            if (e->table) all += (all.empty() ? "" : ",") + std::string(e->name);
        return all;
    }();
    return names.c_str();
}

}  // namespace cadran
