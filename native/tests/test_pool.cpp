// Threads start, meet, sleep and end; nothing is lost and nothing spins when there is no work.
#include <chrono>
#include <ctime>

#include "check.h"
#include "pool.h"

using namespace cadran;

void test_pool() {
    for (int threads = 1; threads <= 4; threads++)
        for (int again = 0; again < 8; again++) {
            Pool pool(threads);  // an unused pool ends too
            if (again % 4 == 0) continue;
            std::vector<int> counts(static_cast<size_t>(threads) * 16), seen = counts;
            for (int job = 0; job < 20; job++)
                pool.run([&](int thread) {
                    counts[static_cast<size_t>(thread) * 16]++;
                    pool.barrier().wait();
                    // Behind the barrier every thread sees what all have done before it.
                    for (int t = 0; t < threads; t++) seen[static_cast<size_t>(thread) * 16] += counts[static_cast<size_t>(t) * 16];
                    pool.barrier().wait();
                });
            for (int t = 0; t < threads; t++) {
                CHECK(counts[static_cast<size_t>(t) * 16] == 20, "thread %d ran %d times", t, counts[static_cast<size_t>(t) * 16]);
                CHECK(seen[static_cast<size_t>(t) * 16] == threads * 20 * 21 / 2, "thread %d did not see the others", t);
            }
        }

    Pool pool(3);
    int sum = 0;
    for (int job = 0; job < 3; job++) {
        pool.run([&](int thread) { if (thread == 0) sum++; });
        const std::clock_t before = std::clock();
        std::this_thread::sleep_for(std::chrono::milliseconds(300));
        const double busy = static_cast<double>(std::clock() - before) / CLOCKS_PER_SEC;
        CHECK(busy < 0.1, "idle threads used %.3f s of 0.3", busy);
    }
    CHECK(sum == 3, "%d", sum);
}
