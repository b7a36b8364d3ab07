// Memory from the system: aligned, zero, huge pages asked for, touched only where it is used.
#pragma once
#include <sys/mman.h>

#include <cstddef>
#include <cstdint>

namespace cadran {

class Memory {
public:
    Memory() = default;
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    Memory(Memory&& other) noexcept : data_(other.data_), base_(other.base_), bytes_(other.bytes_) {
        other.data_ = nullptr;
        other.base_ = nullptr;
    }
    ~Memory() {
        if (base_) munmap(base_, bytes_);
    }

    // False when the system has none. With `huge`, large pages: fewer misses where all of it is read in order.
    bool reserve(size_t bytes, bool huge) {
        constexpr size_t page = size_t{2} << 20;
        const size_t slack = huge ? page : 0;
        bytes_ = bytes + slack + 8192;  // the prefetches read ahead of the end
        void* p = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED) return false;
        base_ = p;
        uintptr_t at = reinterpret_cast<uintptr_t>(p);
        if (huge) at = (at + page - 1) / page * page;
        data_ = reinterpret_cast<uint8_t*>(at);
#if defined(MADV_HUGEPAGE)
        if (huge && bytes >= page) madvise(data_, bytes / page * page, MADV_HUGEPAGE);
#endif
        return true;
    }

    uint8_t* data() const { return data_; }
    template <typename T> T* as() const { return reinterpret_cast<T*>(data_); }

private:
    uint8_t* data_ = nullptr;
    void* base_ = nullptr;
    size_t bytes_ = 0;
};

}  // namespace cadran
