// Threads that run the same function together and meet at barriers. Between jobs they sleep; nothing spins when idle.
#pragma once
#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace cadran {

// Waits until `word` is no longer `seen`: spinning for some microseconds, then asleep in the kernel.
void wait_while(const std::atomic<uint32_t>& word, uint32_t seen, int spins);
void wake_all(std::atomic<uint32_t>& word);

class Barrier {
public:
    explicit Barrier(int threads) : threads_(threads) {}
    void wait() {
        if (threads_ == 1) return;
        const uint32_t round = round_.load(std::memory_order_acquire);
        if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
            arrived_.store(0, std::memory_order_relaxed);
            round_.store(round + 1);  // before the sleepers are counted, hence in one order with them
            wake_all(round_);
        } else {
            wait_while(round_, round, SPINS);
        }
    }

private:
    static constexpr int SPINS = 2000;
    const int threads_;
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> round_{0};
};

class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    // Runs job(thread) on every thread, this one being thread 0, and returns when all are done.
    void run(const std::function<void(int)>& job);
    int threads() const { return threads_; }
    Barrier& barrier() { return barrier_; }

private:
    void work(int thread);
    const int threads_;
    Barrier barrier_;
    const std::function<void(int)>* job_ = nullptr;
    bool ends_ = false;
    alignas(64) std::atomic<uint32_t> generation_{0};
    std::vector<std::thread> workers_;
};

}  // namespace cadran
