#include "pool.h"

#if defined(__x86_64__) || defined(__i386__)
#include <immintrin.h>
#endif

namespace gptwo {

// About 30 microseconds: longer than the wait for a thread that runs, shorter than the scheduler's turn of one that
// does not.
constexpr int SPINS = 1000;

static inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("isb");
#endif
}

Pool::Pool(int threads) : threads_(threads) {
    try {
        for (int i = 1; i < threads; ++i) workers_.emplace_back([this] { worker(); });
    } catch (...) {  // no more threads: those that began must end before they are forgotten
        end();
        throw;
    }
}

Pool::~Pool() { end(); }

void Pool::end() {
    ending_ = true;
    runs_.fetch_add(1);
    wake();
    for (std::thread& worker : workers_) worker.join();
}

void Pool::wait(const std::atomic<uint32_t>& value, uint32_t old) {
    for (int i = 0; i < SPINS; ++i) {
        if (value.load(std::memory_order_acquire) != old) return;
        relax();
    }
    // Announced before the last look: who changes the value after it sees the sleeper (both sequentially consistent).
    std::unique_lock<std::mutex> lock(sleeping_);
    sleepers_.fetch_add(1);
    woken_.wait(lock, [&] { return value.load() != old; });
    sleepers_.fetch_sub(1);
}

void Pool::wake() {
    if (sleepers_.load() == 0) return;
    const std::lock_guard<std::mutex> lock(sleeping_);
    woken_.notify_all();
}

void Pool::barrier() {
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == threads_) {
        next_.store(0, std::memory_order_relaxed);
        arrived_.store(0, std::memory_order_relaxed);
        phase_.store(phase + 1);
        wake();
    } else {
        wait(phase_, phase);
    }
}

void Pool::run(const std::function<void()>& work) {
    const std::lock_guard<std::mutex> one_at_a_time(running_);
    work_ = &work;
    runs_.fetch_add(1);
    wake();
    work();
    // The workers leave the run before the caller does.
    if (threads_ > 1) barrier();
}

void Pool::worker() {
    uint32_t seen = 0;
    while (true) {
        wait(runs_, seen);
        seen += 1;
        if (ending_) return;
        (*work_)();
        barrier();
    }
}

}  // namespace gptwo
