// What the emulated cuDNN and cuBLAS share: work queued on streams of the emulated driver, and memory by type.
//
// They are for tests: the functions that the program calls, by loops in f64, with every argument checked. A mistake of
// the caller is written to stderr and returned as an error.
#pragma once

#include <dlfcn.h>

#include <cstdarg>
#include <cstdio>

#include "emulation.h"
#include "cuda_bf16.h"
#include "cuda_fp16.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

namespace library {

enum class Type { F32, F16, BF16 };

inline size_t size_of(Type type) { return type == Type::F32 ? 4 : 2; }

inline double load(Type type, const void* at, size_t i) {
    switch (type) {
        case Type::F32: return static_cast<const float*>(at)[i];
        case Type::F16: return __half2float(static_cast<const __half*>(at)[i]);
        default: return __bfloat162float(static_cast<const __nv_bfloat16*>(at)[i]);
    }
}

inline void store(Type type, void* at, size_t i, double value) {
    const float f = static_cast<float>(value);
    switch (type) {
        case Type::F32: static_cast<float*>(at)[i] = f; break;
        case Type::F16: static_cast<__half*>(at)[i] = __float2half_rn(f); break;
        default: static_cast<__nv_bfloat16*>(at)[i] = __float2bfloat16_rn(f);
    }
}

// As tensor cores take an f32 factor: 10 bits of mantissa.
inline double tf32(double value) {
    const uint32_t word = emulation::bits<uint32_t>(static_cast<float>(value));
    return emulation::bits<float>((word + 0xfffu + (word >> 13 & 1u)) & ~0x1fffu);
}

// Says what the caller did wrong.
__attribute__((format(printf, 2, 3))) inline void complain(const char* library, const char* format, ...) {
    std::va_list arguments;
    va_start(arguments, format);
    std::fprintf(stderr, "emulated %s: ", library);
    std::vfprintf(stderr, format, arguments);
    std::fputc('\n', stderr);
    va_end(arguments);
}

// The driver is loaded by the program, under this name too; its functions are not visible without asking for them.
inline void* driver_function(const char* name) {
    static void* const driver = dlopen("libcuda.so", RTLD_LAZY);
    return driver == nullptr ? nullptr : dlsym(driver, name);
}

// Queues run(work) on the stream, with a copy of `work`. False where the driver refuses.
template <typename Work>
bool enqueue(void* stream, void (*run)(const Work&), const Work& work) {
    static_assert(std::is_trivially_copyable_v<Work>);
    struct Call {
        void (*run)(const Work&);
        Work work;
    } const call{run, work};
    using Enqueue = int (*)(void* stream, void (*call)(void*), const void* data, size_t bytes);
    static const auto enqueue = reinterpret_cast<Enqueue>(driver_function("emulated_enqueue"));
    const auto unpack = [](void* data) {
        Call call;
        std::memcpy(&call, data, sizeof call);
        call.run(call.work);
    };
    return enqueue != nullptr && enqueue(stream, unpack, &call, sizeof call) == 0;
}

// Whether `bytes` at a pointer lie within one allocation of the driver.
inline bool inside(const void* at, size_t bytes) {
    using Check = int (*)(const void* at, size_t bytes);
    static const auto check = reinterpret_cast<Check>(driver_function("emulated_check"));
    return check != nullptr && check(at, bytes) == 0;
}

}  // namespace library
