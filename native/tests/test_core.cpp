// The native tests: one program, run as it is and under the address, undefined-behaviour and thread sanitizers.
#include "check.h"
#include "kernels.h"

int main(int count, char** names) {
    const struct {
        const char* name;
        void (*run)();
    } tests[] = {{"kernels", test_kernels}, {"pool", test_pool}, {"sampler", test_sampler}, {"model", test_model}};
    std::printf("instruction sets: %s\n", cadran::usable_kernels());
    for (const auto& test : tests) {
        bool wanted = count < 2;
        for (int i = 1; i < count; i++) wanted |= !std::strcmp(names[i], test.name);
        if (!wanted) continue;
        std::printf("%s\n", test.name);
        std::fflush(stdout);
        test.run();
    }
    std::printf("all is well\n");
    return 0;
}
