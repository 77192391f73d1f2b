// A pool of threads whose waits spin briefly and then sleep, so that a busy neighbour on a core stalls nobody for long.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace gptwo {

class Pool {
public:
    explicit Pool(int threads);
    ~Pool();
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    int threads() const { return threads_; }

    // Runs work(*this) on every thread, the caller's included; one run at a time.
    void run(const std::function<void()>& work);

    // Within a run, called by all of its threads alike: body(begin, end) over parts of [0, count), each index once, then
    // a barrier. Who is quick takes more: parts shrink from half a thread's share.
    template <class Body>
    void each(int64_t count, const Body& body) {
        if (threads_ == 1) {
            if (count > 0) body(int64_t(0), count);
            return;
        }
        int64_t begin = next_.load(std::memory_order_relaxed);
        while (begin < count) {
            const int64_t left = count - begin;
            const int64_t size = left / (2 * threads_) > 0 ? left / (2 * threads_) : 1;
            if (next_.compare_exchange_weak(begin, begin + size, std::memory_order_relaxed)) {
                body(begin, begin + size);
                begin = next_.load(std::memory_order_relaxed);
            }
        }
        barrier();
    }

private:
    void end();
    void barrier();
    void worker();
    // Waits until `value` is no longer `old`.
    void wait(const std::atomic<uint32_t>& value, uint32_t old);
    void wake();

    const int threads_;
    alignas(64) std::atomic<int64_t> next_{0};
    alignas(64) std::atomic<int> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    alignas(64) std::atomic<uint32_t> runs_{0};
    std::atomic<int> sleepers_{0};
    bool ending_ = false;
    const std::function<void()>* work_ = nullptr;
    std::mutex running_;
    std::mutex sleeping_;
    std::condition_variable woken_;
    std::vector<std::thread> workers_;
};

}  // namespace gptwo
