#include "pool.h"

#include <algorithm>
#if defined(__linux__)
#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace cadran {

namespace {

constexpr int YIELDS = 2000;

// How many threads sleep on any word: a wake-up is a system call, and mostly nobody sleeps.
std::atomic<int> sleepers{0};

inline void pause_a_little() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

}  // namespace

void wait_while(const std::atomic<uint32_t>& word, uint32_t seen, int spins) {
    for (int i = 0; i < spins; i++) {
        if (word.load(std::memory_order_acquire) != seen) return;
        pause_a_little();
    }
    // Then the core is offered to whoever waits for it. Asleep at once, it would halt, and to wake a halted core of a
    // virtual machine takes longer than most waits.
    for (int i = 0; i < YIELDS; i++) {
        if (word.load(std::memory_order_acquire) != seen) return;
        std::this_thread::yield();
    }
    sleepers.fetch_add(1);
    while (word.load() == seen) {
#if defined(__linux__)
        syscall(SYS_futex, reinterpret_cast<const uint32_t*>(&word), FUTEX_WAIT_PRIVATE, seen, nullptr, nullptr, 0);
#else
        std::this_thread::sleep_for(std::chrono::microseconds(50));
#endif
    }
    sleepers.fetch_sub(1);
}

void wake_all(std::atomic<uint32_t>& word) {
    if (!sleepers.load()) return;
#if defined(__linux__)
    syscall(SYS_futex, reinterpret_cast<uint32_t*>(&word), FUTEX_WAKE_PRIVATE, INT32_MAX, nullptr, nullptr, 0);
#else
    (void)word;
#endif
}

Pool::Pool(int threads) : threads_(std::max(1, threads)), barrier_(threads_) {
    for (int t = 1; t < threads_; t++) workers_.emplace_back([this, t] { work(t); });
}

Pool::~Pool() {
    ends_ = true;
    generation_.fetch_add(1);
    wake_all(generation_);
    for (std::thread& worker : workers_) worker.join();
}

void Pool::run(const std::function<void(int)>& job) {
    if (threads_ == 1) return job(0);
    job_ = &job;
    generation_.fetch_add(1);
    wake_all(generation_);
    job(0);
    barrier_.wait();
}

void Pool::work(int thread) {
    uint32_t seen = 0;
    while (true) {
        // About a tenth of a millisecond: the gap between two steps of a busy engine, no more.
        wait_while(generation_, seen, 4000);
        seen++;
        if (ends_) return;
        (*job_)(thread);
        barrier_.wait();
    }
}

}  // namespace cadran
