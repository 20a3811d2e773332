// Device and pinned memory of the emulated driver. Each allocation lies between pages that nobody may touch, starts at
// a multiple of 256 bytes as CUDA's do, and is filled with poison; the few bytes left beside it hold a pattern that is
// checked after every kernel; freed memory stays inaccessible. Under AddressSanitizer it is the sanitizer's memory,
// exactly as long as asked for.
#include "driver.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace driver {
namespace {

// NaN in every floating type.
constexpr unsigned char POISON = 0xff;
constexpr size_t ALIGNMENT = 256;
constexpr size_t PAGE = 4096;
// On either side: addresses only, so that a far stray access does not land in a neighbour.
constexpr size_t GUARD = 1 << 20;

size_t round_up(size_t n, size_t multiple) { return (n + multiple - 1) / multiple * multiple; }

std::map<uintptr_t, Allocation>& live() {
    static auto& all = *new std::map<uintptr_t, Allocation>;
    return all;
}

size_t used_on[64] = {};
bool forbidden = false;

#if !defined(__SANITIZE_ADDRESS__)

// By region.
std::map<uintptr_t, Allocation>& freed() {
    static auto& all = *new std::map<uintptr_t, Allocation>;
    return all;
}

const char* kind(const Allocation& a) { return a.pinned ? "pinned" : "device"; }

// What lies beside an allocation: also NaN in every floating type, but neither poison nor what lies beside its
// neighbours, so that a copy of those is seen.
unsigned char beside(const Allocation& a, const char* at) {
    return reinterpret_cast<uintptr_t>(at) % 2 ? 0x7f : static_cast<unsigned char>(0xc1 + a.number % 61);
}

bool is_untouched(const Allocation& a, const char* from, const char* to) {
    const auto byte = [&] { return static_cast<unsigned char>(*from) == beside(a, from); };
    for (; from < to && reinterpret_cast<uintptr_t>(from) % 8; ++from) {
        if (!byte()) return false;
    }
    // Every kernel is followed by a look beside all allocations: 8 bytes at a time.
    alignas(8) char eight[8];
    for (char& at : eight) at = static_cast<char>(beside(a, &at));
    for (; to - from >= 8; from += 8) {
        if (std::memcmp(from, eight, 8) != 0) return false;
    }
    for (; from < to; ++from) {
        if (!byte()) return false;
    }
    return true;
}

const char* culprit() {
    const Item* item = running();
    return item ? item->name : "the host";
}

// What lies beside it, `before` bytes in front.
void check_guard(const Allocation& a, size_t before) {
    const char* first = a.region + GUARD;
    const char* end = a.region + a.region_bytes - GUARD;
    if (a.start - first > static_cast<ptrdiff_t>(before)) first = a.start - before;
    if (!is_untouched(a, first, a.start)) {
        stop("%s wrote before the start of an allocation of %zu bytes of %s memory at %p", culprit(), a.bytes, kind(a),
             static_cast<void*>(a.start));
    }
    if (!is_untouched(a, a.start + a.bytes, end)) {
        stop("%s wrote behind the end of an allocation of %zu bytes of %s memory at %p", culprit(), a.bytes, kind(a),
             static_cast<void*>(a.start));
    }
}

struct sigaction previous_segv, previous_bus;

const Allocation* by_region(const std::map<uintptr_t, Allocation>& all, uintptr_t at) {
    for (const auto& [key, a] : all) {
        const auto region = reinterpret_cast<uintptr_t>(a.region);
        if (at >= region && at < region + a.region_bytes) return &a;
    }
    return nullptr;
}

// What lies at `at`, for people.
bool describe(uintptr_t at, char* text, size_t size) {
    const Allocation* a = by_region(live(), at);
    const bool gone = !a;
    if (gone) a = by_region(freed(), at);
    if (!a) {
        std::snprintf(text, size, "where nothing is allocated");
        return false;
    }
    const auto start = reinterpret_cast<uintptr_t>(a->start);
    if (at < start) {
        std::snprintf(text, size, "%zu bytes before an allocation of %zu bytes of %s memory", start - at, a->bytes,
                      kind(*a));
    } else if (at >= start + a->bytes) {
        std::snprintf(text, size, "%zu bytes behind the end of an allocation of %zu bytes of %s memory",
                      at - start - a->bytes, a->bytes, kind(*a));
    } else {
        std::snprintf(text, size, "byte %zu of an allocation of %zu bytes of %s memory", at - start, a->bytes,
                      kind(*a));
    }
    if (gone) std::snprintf(text + std::strlen(text), size - std::strlen(text), ", which has been freed");
    if (const Item* item = running(); item && item->launch) {
        for (size_t i = 0; i < item->launch->kernel->arguments; ++i) {
            if (!item->launch->kernel->argument_pointers[i]) continue;
            uintptr_t value = 0;
            std::memcpy(&value, item->launch->argument(i), sizeof value);
            const auto region = reinterpret_cast<uintptr_t>(a->region);
            if (value < region || value >= region + a->region_bytes) continue;
            std::snprintf(text + std::strlen(text), size - std::strlen(text), " (argument %zu)", i);
        }
    }
    return true;
}

void on_stray_access(int signal, siginfo_t* info, void*) {
    const auto at = reinterpret_cast<uintptr_t>(info->si_addr);
    char text[400];
    const bool known = describe(at, text, sizeof text);
    const Item* item = running();
    if (item && item->launch) {
        const uint3 b = emulation::block_index;
        stop("%s, block (%u, %u, %u), accesses %p%s: %s", item->name, b.x, b.y, b.z, info->si_addr,
             forbidden ? " before it has waited for the kernel before it" : "", text);
    }
    if (item) stop("%s accesses %p: %s", item->name, info->si_addr, text);
    if (known) stop("the host accesses %p: %s", info->si_addr, text);
    // Not ours: the access is repeated and meets whoever handled it before.
    sigaction(signal, signal == SIGBUS ? &previous_bus : &previous_segv, nullptr);
}

#endif

}  // namespace

char* allocate(size_t bytes, bool pinned, int device) {
    static uint64_t allocations = 0;
    Allocation a;
    a.number = ++allocations;
    a.bytes = bytes;
    a.pinned = pinned;
    a.device = device;
#if defined(__SANITIZE_ADDRESS__)
    void* memory = nullptr;
    if (posix_memalign(&memory, ALIGNMENT, bytes) != 0) return nullptr;
    a.start = static_cast<char*>(memory);
    std::memset(a.start, POISON, bytes);
#else
    const size_t inside = round_up(bytes, PAGE);
    a.region_bytes = inside + 2 * GUARD;
    void* memory = mmap(nullptr, a.region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    a.region = static_cast<char*>(memory);
    if (mprotect(a.region + GUARD, inside, PROT_READ | PROT_WRITE) != 0) {
        munmap(memory, a.region_bytes);
        return nullptr;
    }
    a.start = a.region + GUARD + inside - round_up(bytes, ALIGNMENT);
    char* end = a.region + GUARD + inside;
    for (char* at = a.region + GUARD; at < a.start; ++at) *at = static_cast<char>(beside(a, at));
    // No kernel writes it then, and a machine may have less memory than the GPU: its pages are zero, and not there yet.
    if (options().run) std::memset(a.start, POISON, bytes);
    for (char* at = a.start + bytes; at < end; ++at) *at = static_cast<char>(beside(a, at));
#endif
    live()[reinterpret_cast<uintptr_t>(a.start)] = a;
    if (!pinned) used_on[device] += round_up(bytes, ALIGNMENT);
    return a.start;
}

bool release(const void* start, bool pinned) {
    const auto found = live().find(reinterpret_cast<uintptr_t>(start));
    if (found == live().end() || found->second.pinned != pinned) return false;
    const Allocation a = found->second;
#if defined(__SANITIZE_ADDRESS__)
    live().erase(found);
    std::free(a.start);
#else
    check_guard(a, PAGE);
    live().erase(found);
    // Gives the memory back and keeps the addresses.
    mmap(a.region, a.region_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    freed()[reinterpret_cast<uintptr_t>(a.region)] = a;
#endif
    if (!pinned) used_on[a.device] -= round_up(a.bytes, ALIGNMENT);
    return true;
}

const Allocation* allocation_of(const void* at, size_t bytes) {
    const auto address = reinterpret_cast<uintptr_t>(at);
    auto next = live().upper_bound(address);
    if (next == live().begin()) return nullptr;
    const Allocation& a = std::prev(next)->second;
    const size_t offset = address - reinterpret_cast<uintptr_t>(a.start);
    return offset < a.bytes && bytes <= a.bytes - offset ? &a : nullptr;
}

bool touches(const void* at, size_t bytes, bool pinned) {
    const auto address = reinterpret_cast<uintptr_t>(at);
    // The last one that starts before its end.
    auto next = live().lower_bound(address + bytes);
    if (next == live().begin()) return false;
    const Allocation& a = std::prev(next)->second;
    return a.pinned == pinned && address < reinterpret_cast<uintptr_t>(a.start) + a.bytes;
}

size_t used(int device) { return used_on[device]; }

void forbid_device_memory() {
    forbidden = true;
    for (const auto& [start, a] : live()) {
        if (a.pinned) continue;
#if defined(__SANITIZE_ADDRESS__)
        __asan_poison_memory_region(a.start, a.bytes);
#else
        mprotect(a.region + GUARD, a.region_bytes - 2 * GUARD, PROT_NONE);
#endif
    }
}

void allow_device_memory() {
    if (!forbidden) return;
    forbidden = false;
    for (const auto& [start, a] : live()) {
        if (a.pinned) continue;
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(a.start, a.bytes);
#else
        mprotect(a.region + GUARD, a.region_bytes - 2 * GUARD, PROT_READ | PROT_WRITE);
#endif
    }
}

void check_guards() {
#if !defined(__SANITIZE_ADDRESS__)
    for (const auto& [start, a] : live()) check_guard(a, ALIGNMENT);
#endif
}

void report_allocations() {
    size_t count[2] = {}, bytes[2] = {};
    for (const auto& [start, a] : live()) {
#if !defined(__SANITIZE_ADDRESS__)
        check_guard(a, PAGE);
#endif
        ++count[a.pinned];
        bytes[a.pinned] += a.bytes;
    }
    if (count[0]) complain("leaked %zu allocations of device memory, %zu bytes", count[0], bytes[0]);
    if (count[1]) complain("leaked %zu allocations of pinned memory, %zu bytes", count[1], bytes[1]);
}

void catch_stray_accesses() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_set_death_callback([] {
        const Item* item = running();
        if (item) say("the sanitizer's report is about %s", item->name);
    });
#else
    struct sigaction action = {};
    action.sa_sigaction = on_stray_access;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    sigaction(SIGSEGV, &action, &previous_segv);
    sigaction(SIGBUS, &action, &previous_bus);
#endif
}

}  // namespace driver
