// The entry points of the emulated driver, with the names that cudarc resolves for CUDA 13, and what they refuse.
// Where a call is wrong, the code is the real driver's; what was wrong is said on stderr.
#include "driver.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>

namespace driver {
namespace {

constexpr int MOST_DEVICES = 64;
constexpr size_t SHARED_WITHOUT_ASKING = 48 << 10;
constexpr unsigned EVENT_BLOCKING_SYNC = 1, EVENT_DISABLE_TIMING = 2;
// CUlaunchAttributeID.
constexpr int PROGRAMMATIC_STREAM_SERIALIZATION = 6;
// CUstreamCaptureMode.
constexpr int MODE_GLOBAL = 0, MODE_THREAD_LOCAL = 1, MODE_RELAXED = 2;

void write_line(const char* format, va_list arguments) {
    char text[700] = "emulated driver: ";
    const size_t head = std::strlen(text);
    std::vsnprintf(text + head, sizeof text - head - 1, format, arguments);
    std::strcat(text, "\n");
    // Whole, whoever else writes.
    if (write(STDERR_FILENO, text, std::strlen(text)) < 0) return;
}

uint64_t number(const char* name, const char* text) {
    char* end = nullptr;
    const unsigned long long value = std::strtoull(text, &end, 10);
    if (end == text || *end != 0) stop("%s is %s, not a number", name, text);
    return value;
}

Options read_options() {
    Options o;
    const auto get = [](const char* name) {
        const char* value = std::getenv(name);
        return value && *value ? value : nullptr;
    };
    const auto read = [&](const char* name, auto& into) {
        if (const char* text = get(name)) into = static_cast<std::decay_t<decltype(into)>>(number(name, text));
    };
    read("EMULATED_SEED", o.seed);
    read("EMULATED_MEMORY", o.memory);
    read("EMULATED_DRIVER_VERSION", o.version);
    read("EMULATED_DEVICES", o.devices);
    read("EMULATED_INIT_ERROR", o.init_error);
    read("EMULATED_STRICT", o.strict);
    read("EMULATED_RUN", o.run);
    read("EMULATED_MULTIPROCESSORS", o.multiprocessors);
    if (o.devices > MOST_DEVICES) stop("EMULATED_DEVICES: at most %d", MOST_DEVICES);
    if (const char* text = get("EMULATED_NAME")) o.name = text;
    if (const char* text = get("EMULATED_TRACE")) o.trace = text;
    if (const char* text = get("EMULATED_COMPUTE_CAPABILITY")) {
        if (std::sscanf(text, "%d.%d", &o.major, &o.minor) != 2) stop("EMULATED_COMPUTE_CAPABILITY: as 9.0");
    }
    if (const char* text = get("EMULATED_FAIL")) {
        unsigned long long number = 0;
        int code = 0;
        if (std::sscanf(text, "launch:%llu:%d", &number, &code) == 2) {
            o.failing_launch = number;
        } else if (std::sscanf(text, "capture:%llu:%d", &number, &code) == 2) {
            o.failing_capture = number;
        } else {
            stop("EMULATED_FAIL: as launch:N:CODE or capture:N:CODE");
        }
        o.failing_code = static_cast<Code>(code);
    }
    if (const char* text = get("EMULATED_DROP_WAIT")) {
        if (std::strncmp(text, "host:", 5) == 0) {
            o.dropped_host_wait = number("EMULATED_DROP_WAIT", text + 5);
        } else {
            o.dropped_wait = number("EMULATED_DROP_WAIT", text);
        }
    }
    if (const char* text = get("EMULATED_SWAP_ARGUMENTS")) {
        char name[200];
        if (std::sscanf(text, "%199[^:]:%zu:%zu", name, &o.swapped[0], &o.swapped[1]) != 3) {
            stop("EMULATED_SWAP_ARGUMENTS: as kernel:i:j");
        }
        o.swapped_kernel = name;
    }
    return o;
}

// ---- What there is -------------------------------------------------------------------------------------------------

// CUlaunchAttribute and CUlaunchConfig.
struct LaunchAttribute {
    int id;
    char pad[4];
    union {
        int number;
        alignas(8) char bytes[64];
    } value;
};

struct LaunchConfig {
    uint3 grid, block;
    unsigned shared;
    void* stream;
    const LaunchAttribute* attributes;
    unsigned attribute_count;
};

struct Context {
    int device = 0;
    int retained = 0;
};

struct Module;

struct Function {
    const emulation::Registered* kernel = nullptr;
    size_t most_dynamic_shared = SHARED_WITHOUT_ASKING;
};

struct Module {
    // The .cu file that it was compiled from, without folder and extension; empty where that is not known.
    std::string source;
    std::map<std::string, std::unique_ptr<Function>> functions;
};

struct Handles {
    Context contexts[MOST_DEVICES];
    std::set<Event*> events;
    std::set<Module*> modules;
    std::set<Function*> functions;
    std::set<Graph*> graphs;
    std::set<Executable*> executables;
};

Handles& handles() {
    static auto& all = *new Handles;
    return all;
}

std::atomic<bool> initialised{false};
uint64_t unbalanced = 0;
bool swapped_any = false;
uint64_t stream_waits = 0, host_waits = 0, captures = 0;
thread_local Context* current_context = nullptr;
thread_local int thread_capture_mode = MODE_GLOBAL;
thread_local Stream* per_thread_stream = nullptr;

// What every call but a few needs.
Code ready() {
    if (!initialised) return NOT_INITIALIZED;
    if (!current_context) return INVALID_CONTEXT;
    return lost;
}

#define ENTER                                                            \
    std::lock_guard<std::recursive_mutex> entered(::driver::everything); \
    if (const Code refused = ready()) return refused

// As ENTER, for calls that destroy something: they do so on a lost device too, and return its error.
#define ENTER_TO_DESTROY                                                 \
    std::lock_guard<std::recursive_mutex> entered(::driver::everything); \
    if (const Code refused = ready(); refused != SUCCESS && refused != lost) return refused

// The stream behind a handle, or null.
Stream* stream_of(const void* handle) {
    const auto value = reinterpret_cast<uintptr_t>(handle);
    if (value <= 1) return &null_stream();
    if (value == 2) {
        if (!per_thread_stream) {
            per_thread_stream = new_stream(true, 0).get();
            per_thread_stream->per_thread = true;
        }
        return per_thread_stream;
    }
    for (const auto& stream : streams) {
        if (stream.get() == handle && !stream->destroyed && stream->number != 0) return stream.get();
    }
    say("%p is no stream", handle);
    return nullptr;
}

void invalidate(Stream& stream) {
    if (stream.capture) stream.capture->invalidated = true;
}

// Calls that may upset a capture in progress. Which of them the real driver refuses is not documented one by one;
// these are those that wait, allocate or free.
Code unsafe_in_capture(const char* call) {
    if (thread_capture_mode == MODE_RELAXED) return SUCCESS;
    Code code = SUCCESS;
    for (const auto& stream : streams) {
        if (!stream->capture || stream->capture->mode == MODE_RELAXED) continue;
        const bool mine = stream->capture->thread == std::this_thread::get_id();
        const bool global = stream->capture->mode == MODE_GLOBAL && thread_capture_mode == MODE_GLOBAL;
        if (!mine && !global) continue;
        say("%s while stream %d is captured", call, stream->number);
        invalidate(*stream);
        code = CAPTURE_UNSUPPORTED;
    }
    return code;
}

// A stream that may be given work.
Code find_stream(const void* handle, Stream*& stream) {
    stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->number != 0) return SUCCESS;
    for (const auto& other : streams) {
        if (!other->blocking || !other->capture) continue;
        say("work on the null stream while stream %d, which orders with it, is captured", other->number);
        invalidate(*other);
        return CAPTURE_IMPLICIT;
    }
    return SUCCESS;
}

Code run_stream(Stream& stream) {
    const auto end = record(stream, "end");
    const Code code = run_until([&end] { return end->done; });
    if (end->done) host_reached(end->time);
    return code;
}

// ---- Copies --------------------------------------------------------------------------------------------------------

bool is_pinned(const void* host) {
    const Allocation* a = allocation_of(host, 1);
    return a && a->pinned;
}

// Whether `bytes` at a device pointer are one allocation's.
bool check_device(const char* call, const void* at, size_t bytes) {
    if (allocation_of(at, bytes)) return true;
    say("%s: %zu bytes at %p are not within one allocation", call, bytes, at);
    return false;
}

// Whether `bytes` at a host pointer are host memory: pinned, or none of ours.
bool check_host(const char* call, const void* at, size_t bytes) {
    if (touches(at, bytes, false)) {
        say("%s: %p is device memory, not the host's", call, at);
        return false;
    }
    if (touches(at, bytes, true) && !allocation_of(at, bytes)) {
        say("%s: %zu bytes at %p leave their pinned allocation", call, bytes, at);
        return false;
    }
    return true;
}

Item copy_item(const char* name, char* to, const char* from, size_t bytes) {
    Item item;
    item.kind = Item::COPY;
    item.name = name;
    item.bytes = bytes;
    const bool ours[2] = {allocation_of(to, bytes) != nullptr, allocation_of(from, bytes) != nullptr};
    item.action = [=] {
        if ((ours[0] && !allocation_of(to, bytes)) || (ours[1] && !allocation_of(from, bytes))) {
            say("%s: memory was freed before the copy ran", name);
            return ILLEGAL_ADDRESS;
        }
        std::memmove(to, from, bytes);
        return SUCCESS;
    };
    return item;
}

Code copy_to_device(const char* name, const void* handle, uint64_t to, const void* host, size_t bytes, bool wait) {
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    if (wait) {
        if (const Code code = unsafe_in_capture(name)) return code;
    }
    if (bytes == 0) return SUCCESS;
    char* device = reinterpret_cast<char*>(to);
    const char* from = static_cast<const char*>(host);
    if (!check_device(name, device, bytes) || !check_host(name, host, bytes)) return INVALID_VALUE;
    if (is_pinned(host)) {
        Item item = copy_item(name, device, from, bytes);
        item.host = host;
        item.host_bytes = bytes;
        if (const Code code = enqueue(*stream, std::move(item))) return code;
        return wait ? run_stream(*stream) : SUCCESS;
    }
    if (stream->capture) {
        say("%s from memory that is not pinned, while stream %d is captured", name, stream->number);
        invalidate(*stream);
        return CAPTURE_UNSUPPORTED;
    }
    if (wait) {
        if (const Code code = run_stream(*stream)) return code;
    }
    auto staged = std::make_shared<std::vector<char>>(from, from + bytes);
    Item item = copy_item(name, device, staged->data(), bytes);
    item.action = [staged, action = std::move(item.action)] { return action(); };
    if (const Code code = enqueue(*stream, std::move(item))) return code;
    // A synchronous copy too may return once the bytes are staged, before they have arrived.
    return wait && draw() >> 63 ? run_stream(*stream) : SUCCESS;
}

Code copy_to_host(const char* name, const void* handle, void* host, uint64_t from, size_t bytes, bool wait) {
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    if (wait) {
        if (const Code code = unsafe_in_capture(name)) return code;
    }
    if (bytes == 0) return SUCCESS;
    const char* device = reinterpret_cast<const char*>(from);
    if (!check_device(name, device, bytes) || !check_host(name, host, bytes)) return INVALID_VALUE;
    Item item = copy_item(name, static_cast<char*>(host), device, bytes);
    if (is_pinned(host)) {
        item.host = host;
        item.host_bytes = bytes;
    } else if (stream->capture) {
        say("%s to memory that is not pinned, while stream %d is captured", name, stream->number);
        invalidate(*stream);
        return CAPTURE_UNSUPPORTED;
    } else {
        // Returns when it is done, asynchronous or not.
        wait = true;
    }
    if (const Code code = enqueue(*stream, std::move(item))) return code;
    return wait ? run_stream(*stream) : SUCCESS;
}

// Asynchronous, whatever its name.
Code copy_on_device(const char* name, const void* handle, uint64_t to, uint64_t from, size_t bytes) {
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    if (bytes == 0) return SUCCESS;
    char* target = reinterpret_cast<char*>(to);
    const char* source = reinterpret_cast<const char*>(from);
    if (!check_device(name, target, bytes) || !check_device(name, source, bytes)) return INVALID_VALUE;
    return enqueue(*stream, copy_item(name, target, source, bytes));
}

template <typename T>
Code set(const char* name, const void* handle, uint64_t at, T value, size_t count) {
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    if (count == 0) return SUCCESS;
    T* target = reinterpret_cast<T*>(at);
    if (at % sizeof(T) != 0 || !check_device(name, target, count * sizeof(T))) return INVALID_VALUE;
    Item item;
    item.kind = Item::SET;
    item.name = name;
    item.bytes = count * sizeof(T);
    item.action = [=] {
        if (!allocation_of(target, count * sizeof(T))) {
            say("%s: memory was freed before it ran", name);
            return ILLEGAL_ADDRESS;
        }
        std::fill(target, target + count, value);
        return SUCCESS;
    };
    return enqueue(*stream, std::move(item));
}

// ---- Launches ------------------------------------------------------------------------------------------------------

size_t most_shared() {
    const int sm = options().major * 10 + options().minor;
    if (sm == 86 || sm == 89 || sm >= 120) return 99 << 10;
    return sm < 90 ? 163 << 10 : 227 << 10;
}

int threads_a_multiprocessor() {
    const int sm = options().major * 10 + options().minor;
    return sm == 86 || sm == 89 || sm >= 120 ? 1536 : 2048;
}

Code check_launch(const Function& function, uint3 grid, uint3 block, size_t shared) {
    const emulation::Registered& kernel = *function.kernel;
    const uint64_t threads = uint64_t{block.x} * block.y * block.z;
    if (threads == 0 || threads > 1024 || block.z > 64) {
        say("%s: a block of %u × %u × %u threads", kernel.name, block.x, block.y, block.z);
        return INVALID_VALUE;
    }
    if (threads % 32 != 0) {
        say("%s: %llu threads a block, not a multiple of 32, which the emulation needs", kernel.name,
            static_cast<unsigned long long>(threads));
        return INVALID_VALUE;
    }
    if (threads > kernel.most_threads) {
        say("%s: %llu threads a block exceed its launch bound, %u", kernel.name,
            static_cast<unsigned long long>(threads), kernel.most_threads);
        return LAUNCH_OUT_OF_RESOURCES;
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        say("%s: a grid of %u × %u × %u blocks", kernel.name, grid.x, grid.y, grid.z);
        return INVALID_VALUE;
    }
    if (shared > function.most_dynamic_shared) {
        say("%s: %zu bytes of dynamic shared memory, of which cuFuncSetAttribute allowed %zu", kernel.name, shared,
            function.most_dynamic_shared);
        return INVALID_VALUE;
    }
    return SUCCESS;
}

Code launch(Function& function, uint3 grid, uint3 block, size_t shared, const void* handle, void** parameters,
            bool dependent) {
    const emulation::Registered& kernel = *function.kernel;
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    if (const Code code = check_launch(function, grid, block, shared)) return code;
    if (!parameters && kernel.arguments != 0) {
        say("%s: launched without arguments", kernel.name);
        return INVALID_VALUE;
    }
    auto launch = std::make_shared<Launch>();
    launch->kernel = &kernel;
    launch->grid = grid;
    launch->block = block;
    launch->shared = shared;
    launch->dependent = dependent;
    size_t bytes = 0;
    for (size_t i = 0; i < kernel.arguments; ++i) {
        launch->offsets.push_back(bytes);
        bytes += (kernel.argument_sizes[i] + sizeof(uint4) - 1) / sizeof(uint4) * sizeof(uint4);
    }
    launch->values.resize(bytes / sizeof(uint4));
    const Options& o = options();
    for (size_t i = 0; i < kernel.arguments; ++i) {
        size_t from = i;
        if (o.swapped_kernel == kernel.name) {
            if (i == o.swapped[0]) from = o.swapped[1];
            if (i == o.swapped[1]) from = o.swapped[0];
            swapped_any = true;
            if (from >= kernel.arguments || kernel.argument_sizes[from] != kernel.argument_sizes[i]) {
                stop("EMULATED_SWAP_ARGUMENTS: arguments %zu and %zu of %s differ in size", i, from, kernel.name);
            }
        }
        std::memcpy(launch->argument(i), parameters[from], kernel.argument_sizes[i]);
    }
    // The host's memory is as good as the device's here, but not on a GPU.
    for (size_t i = 0; i < kernel.arguments; ++i) {
        if (!kernel.argument_pointers[i]) continue;
        const void* pointer = nullptr;
        std::memcpy(&pointer, launch->argument(i), sizeof pointer);
        if (pointer && !allocation_of(pointer, 1)) {
            stop("%s: argument %zu, %p, does not point to allocated memory", kernel.name, i, pointer);
        }
    }
    Item item;
    item.kind = Item::KERNEL;
    item.name = kernel.name;
    item.launch = std::move(launch);
    return enqueue(*stream, std::move(item));
}

// ---- Modules -------------------------------------------------------------------------------------------------------

template <typename T>
T read_at(const char* from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

// The name of a file without folder and extension.
std::string stem(std::string path) {
    path.erase(0, path.rfind('/') + 1);
    return path.substr(0, path.rfind('.'));
}

// Whether a fat binary, or a plain ELF file, has code for this device. The layout of a fat binary as cuobjdump shows
// it: a head of 16 bytes, then entries of kind (1 PTX, 2 ELF), size of their head, size, and at byte 28 the
// architecture, then place and length of the name of the source.
Code check_image(const char* image, std::string& source) {
    if (std::memcmp(image, "\x7f" "ELF", 4) == 0) return SUCCESS;
    if (read_at<uint32_t>(image) != 0xba55ed50u) {
        say("cuModuleLoadData: neither a fat binary nor an ELF file");
        return INVALID_IMAGE;
    }
    const auto sm = static_cast<uint32_t>(options().major * 10 + options().minor);
    const char* entry = image + read_at<uint16_t>(image + 6);
    const char* end = entry + read_at<uint64_t>(image + 8);
    while (entry < end) {
        const auto kind = read_at<uint16_t>(entry);
        const auto architecture = read_at<uint32_t>(entry + 28);
        if ((kind == 1 || architecture / 10 == sm / 10) && architecture <= sm) {
            source = stem({entry + read_at<uint32_t>(entry + 32), read_at<uint32_t>(entry + 36)});
            return SUCCESS;
        }
        entry += read_at<uint32_t>(entry + 4) + read_at<uint64_t>(entry + 8);
    }
    say("cuModuleLoadData: nothing for compute capability %d.%d", options().major, options().minor);
    return NO_BINARY_FOR_GPU;
}

// ---- The end -------------------------------------------------------------------------------------------------------

void report() {
    Handles& h = handles();
    // A lost device takes everything with it.
    if (lost == SUCCESS) {
        report_allocations();
        const auto leaked = [](size_t count, const char* what) {
            if (count) complain("leaked %zu %s", count, what);
        };
        size_t open = 0;
        for (const auto& stream : streams) open += stream->number != 0 && !stream->destroyed && !stream->per_thread;
        leaked(open, "streams");
        leaked(h.events.size(), "events");
        leaked(h.modules.size(), "modules");
        leaked(h.graphs.size(), "graphs");
        leaked(h.executables.size(), "executable graphs");
        for (const Context& context : h.contexts) {
            if (context.retained) {
                complain("primary context of device %d: retained %d times more than released", context.device,
                         context.retained);
            }
        }
    }
    const Options& o = options();
    const bool idle = stream_waits < o.dropped_wait || host_waits < o.dropped_host_wait ||
                      launches_run() < o.failing_launch || captures < o.failing_capture ||
                      (!o.swapped_kernel.empty() && !swapped_any);
    if (idle) complain("the mistake or failure that the environment asks for has not come about");
    if (unbalanced && o.strict) {
        std::fflush(nullptr);
        _exit(UNBALANCED);
    }
}

__attribute__((destructor)) void at_exit() {
    if (!initialised) return;
    std::lock_guard<std::recursive_mutex> lock(everything);
    initialised = false;
    report();
}

struct Name {
    int code;
    const char *name, *text;
};

// Names as in cuda.h, texts as the driver's.
const Name NAMES[] = {
    {0, "CUDA_SUCCESS", "no error"},
    {1, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {4, "CUDA_ERROR_DEINITIALIZED", "driver shutting down"},
    {34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library"},
    {46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable"},
    {100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {214, "CUDA_ERROR_ECC_UNCORRECTABLE", "uncorrectable ECC error encountered"},
    {218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {220, "CUDA_ERROR_NVLINK_UNCORRECTABLE", "uncorrectable NVLink error detected during the execution"},
    {222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain."},
    {304, "CUDA_ERROR_OPERATING_SYSTEM", "OS call failed or operation not supported on this OS"},
    {400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {401, "CUDA_ERROR_ILLEGAL_STATE", "the operation cannot be performed in the present state"},
    {500, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {600, "CUDA_ERROR_NOT_READY", "device not ready"},
    {700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered"},
    {701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch"},
    {702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated"},
    {709, "CUDA_ERROR_CONTEXT_IS_DESTROYED", "context is destroyed"},
    {714, "CUDA_ERROR_HARDWARE_STACK_ERROR", "hardware stack error"},
    {715, "CUDA_ERROR_ILLEGAL_INSTRUCTION", "an illegal instruction was encountered"},
    {716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address"},
    {719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {800, "CUDA_ERROR_NOT_PERMITTED", "operation not permitted"},
    {801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
    {802, "CUDA_ERROR_SYSTEM_NOT_READY", "system not yet initialized"},
    {803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination"},
    {804, "CUDA_ERROR_COMPAT_NOT_SUPPORTED_ON_DEVICE", "forward compatibility was attempted on non supported HW"},
    {900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing"},
    {901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture"},
    {903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "the capture was not initiated in this stream"},
    {904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED",
     "the capture sequence contains a fork that was not joined to the primary stream"},
    {905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream"},
    {906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT",
     "operation would make the legacy stream depend on a capturing blocking stream"},
    {907, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream"},
    {908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD",
     "attempt to terminate a thread-local capture sequence from another thread"},
    {999, "CUDA_ERROR_UNKNOWN", "unknown error"},
};

const Name* name_of(int code) {
    for (const Name& name : NAMES) {
        if (name.code == code) return &name;
    }
    return nullptr;
}

// CUdevice_attribute: an H100's, but for the number of multiprocessors.
int attribute_of(int attribute) {
    switch (attribute) {
        case 1: return 1024;                                 // threads a block
        case 2: case 3: return 1024;                         // block x, y
        case 4: return 64;                                   // block z
        case 5: return 0x7fffffff;                           // grid x
        case 6: case 7: return 65535;                        // grid y, z
        case 8: return SHARED_WITHOUT_ASKING;                // shared memory a block
        case 9: return 64 << 10;                             // constant memory
        case 10: return 32;                                  // warp
        case 11: return 0x7fffffff;                          // pitch
        case 12: case 82: return 64 << 10;                   // registers a block, a multiprocessor
        case 13: return 1'980'000;                           // clock, kHz
        case 14: return 512;                                 // texture alignment
        case 15: case 19: case 31: case 41: return 1;        // overlap, mapped memory, concurrency, one address space
        case 16: return options().multiprocessors;
        case 33: return 1;                                   // PCI bus
        case 36: return 2'619'000;                           // memory clock, kHz
        case 37: return 5120;                                // memory bus, bits
        case 38: return 50 << 20;                            // L2
        case 39: return threads_a_multiprocessor();
        case 40: return 3;                                   // copy engines
        case 75: return options().major;
        case 76: return options().minor;
        case 78: case 79: case 80: case 83: case 90: return 1;  // priorities, L1, managed memory, preemption
        case 81: return static_cast<int>(most_shared()) + 1024;  // shared memory a multiprocessor
        case 95: case 99: case 102: case 115: return 1;      // cooperative launch, registered memory, addresses, pools
        case 97: return static_cast<int>(most_shared());     // shared memory a block may ask for
        case 106: return 32;                                 // blocks a multiprocessor
        case 111: return 1024;                               // shared memory that a block reserves
        default: return 0;
    }
}

bool is_device(int device) { return device >= 0 && device < options().devices; }

Code destroy_unknown(const char* what, const void* handle) {
    complain("%p, to be destroyed, is no %s", handle, what);
    return INVALID_HANDLE;
}

}  // namespace

const Options& options() {
    static const Options& all = *new Options(read_options());
    return all;
}

void say(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line(format, arguments);
    va_end(arguments);
}

void stop(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line(format, arguments);
    va_end(arguments);
    _exit(STOPPED);
}

void complain(const char* format, ...) {
    va_list arguments;
    va_start(arguments, format);
    write_line(format, arguments);
    va_end(arguments);
    ++unbalanced;
}

}  // namespace driver

using namespace driver;

extern "C" {

// ---- Initialisation, errors, devices, contexts

int cuInit(unsigned) {
    std::lock_guard<std::recursive_mutex> lock(everything);
    if (options().init_error) return options().init_error;
    if (options().devices == 0) return NO_DEVICE;
    if (initialised) return SUCCESS;
    initialised = true;
    for (int i = 0; i < MOST_DEVICES; ++i) handles().contexts[i].device = i;
    null_stream();
    catch_stray_accesses();
    return SUCCESS;
}

int cuDriverGetVersion(int* version) {
    *version = options().version;
    return SUCCESS;
}

int cuGetErrorName(int code, const char** text) {
    const Name* name = name_of(code);
    *text = name ? name->name : nullptr;
    return name ? SUCCESS : INVALID_VALUE;
}

int cuGetErrorString(int code, const char** text) {
    const Name* name = name_of(code);
    *text = name ? name->text : nullptr;
    return name ? SUCCESS : INVALID_VALUE;
}

int cuDeviceGetCount(int* count) {
    if (!initialised) return NOT_INITIALIZED;
    *count = options().devices;
    return SUCCESS;
}

int cuDeviceGet(int* device, int ordinal) {
    if (!initialised) return NOT_INITIALIZED;
    *device = ordinal;
    return is_device(ordinal) ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetName(char* name, int size, int device) {
    if (!initialised) return NOT_INITIALIZED;
    if (!is_device(device)) return INVALID_DEVICE;
    std::snprintf(name, static_cast<size_t>(size), "%s", options().name.c_str());
    return SUCCESS;
}

int cuDeviceGetUuid_v2(char* uuid, int device) {
    if (!initialised) return NOT_INITIALIZED;
    if (!is_device(device)) return INVALID_DEVICE;
    std::memcpy(uuid, "emulated device", 16);
    uuid[15] = static_cast<char>(device);
    return SUCCESS;
}

int cuDeviceTotalMem_v2(size_t* bytes, int device) {
    if (!initialised) return NOT_INITIALIZED;
    *bytes = options().memory;
    return is_device(device) ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (!initialised) return NOT_INITIALIZED;
    *value = attribute_of(attribute);
    return is_device(device) ? SUCCESS : INVALID_DEVICE;
}

int cuDevicePrimaryCtxRetain(void** context, int device) {
    std::lock_guard<std::recursive_mutex> lock(everything);
    if (!initialised) return NOT_INITIALIZED;
    if (!is_device(device)) return INVALID_DEVICE;
    Context& c = handles().contexts[device];
    ++c.retained;
    *context = &c;
    return SUCCESS;
}

int cuDevicePrimaryCtxRelease_v2(int device) {
    std::lock_guard<std::recursive_mutex> lock(everything);
    if (!initialised) return NOT_INITIALIZED;
    if (!is_device(device)) return INVALID_DEVICE;
    Context& c = handles().contexts[device];
    if (c.retained == 0) {
        complain("primary context of device %d released more often than retained", device);
        return INVALID_CONTEXT;
    }
    // What is still queued may have something to show.
    if (--c.retained == 0) run_all();
    return SUCCESS;
}

int cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    if (!initialised) return NOT_INITIALIZED;
    if (!is_device(device)) return INVALID_DEVICE;
    *flags = 0;
    *active = handles().contexts[device].retained > 0;
    return SUCCESS;
}

int cuCtxSetCurrent(void* context) {
    std::lock_guard<std::recursive_mutex> lock(everything);
    if (!initialised) return NOT_INITIALIZED;
    Context* c = static_cast<Context*>(context);
    if (c && (c < handles().contexts || c >= handles().contexts + MOST_DEVICES || c->retained == 0)) {
        say("cuCtxSetCurrent: %p is no retained context", context);
        return INVALID_CONTEXT;
    }
    current_context = c;
    return SUCCESS;
}

int cuCtxGetCurrent(void** context) {
    if (!initialised) return NOT_INITIALIZED;
    *context = current_context;
    return SUCCESS;
}

int cuCtxGetDevice(int* device) {
    ENTER;
    *device = current_context->device;
    return SUCCESS;
}

int cuCtxSetFlags(unsigned) {
    ENTER;
    return SUCCESS;
}

int cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    ENTER;
    *least = 0;
    *greatest = -5;
    return SUCCESS;
}

int cuCtxSynchronize() {
    ENTER;
    bool captured = false;
    for (const auto& stream : streams) {
        if (!stream->capture) continue;
        say("cuCtxSynchronize while stream %d is captured", stream->number);
        invalidate(*stream);
        captured = true;
    }
    if (captured) return CAPTURE_UNSUPPORTED;
    trace_host_wait("waits");
    return run_all();
}

// ---- Memory

int cuMemGetInfo_v2(size_t* free, size_t* total) {
    ENTER;
    *total = options().memory;
    *free = *total - std::min(*total, used(current_context->device));
    return SUCCESS;
}

int cuMemAlloc_v2(uint64_t* pointer, size_t bytes) {
    ENTER;
    if (const Code code = unsafe_in_capture("cuMemAlloc")) return code;
    if (bytes == 0) return INVALID_VALUE;
    const size_t taken = used(current_context->device);
    // The allocation is rounded up to 256 bytes.
    if (taken > options().memory || bytes > (options().memory - taken) / 256 * 256) return OUT_OF_MEMORY;
    char* memory = allocate(bytes, false, current_context->device);
    *pointer = reinterpret_cast<uint64_t>(memory);
    return memory ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemFree_v2(uint64_t pointer) {
    ENTER_TO_DESTROY;
    if (pointer == 0) return lost;
    if (const Code code = unsafe_in_capture("cuMemFree")) return code;
    // As the real one does.
    run_all();
    if (release(reinterpret_cast<void*>(pointer), false)) return lost;
    complain("cuMemFree: %p is not the start of a live allocation of device memory", reinterpret_cast<void*>(pointer));
    return INVALID_VALUE;
}

// The plans say where each tensor lies, once; a pool's memory would also bind itself to a captured graph.
int cuMemAllocAsync(uint64_t*, size_t, void*) {
    ENTER;
    say("cuMemAllocAsync: all memory is to come from cuMemAlloc");
    return NOT_SUPPORTED;
}

int cuMemFreeAsync(uint64_t, void*) {
    ENTER;
    say("cuMemFreeAsync: all memory is to come from cuMemAlloc");
    return NOT_SUPPORTED;
}

int cuMemHostAlloc(void** pointer, size_t bytes, unsigned) {
    ENTER;
    if (const Code code = unsafe_in_capture("cuMemHostAlloc")) return code;
    if (bytes == 0) return INVALID_VALUE;
    *pointer = allocate(bytes, true, current_context->device);
    return *pointer ? SUCCESS : OUT_OF_MEMORY;
}

int cuMemAllocHost_v2(void** pointer, size_t bytes) { return cuMemHostAlloc(pointer, bytes, 0); }

int cuMemHostGetDevicePointer_v2(uint64_t* device, void* host, unsigned) {
    ENTER;
    *device = reinterpret_cast<uint64_t>(host);
    return is_pinned(host) ? SUCCESS : INVALID_VALUE;
}

int cuMemFreeHost(void* pointer) {
    ENTER_TO_DESTROY;
    if (!pointer) return lost;
    if (const Code code = unsafe_in_capture("cuMemFreeHost")) return code;
    const Allocation* a = allocation_of(pointer, 1);
    if (a && a->pinned && a->start == pointer && in_use(*a)) {
        // Nothing promises that freeing waits.
        complain("cuMemFreeHost: queued work uses the %zu bytes at %p", a->bytes, pointer);
        run_all();
    }
    if (release(pointer, true)) return lost;
    complain("cuMemFreeHost: %p is not the start of a live allocation of pinned memory", pointer);
    return INVALID_VALUE;
}

int cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t bytes) {
    ENTER;
    return copy_to_device("cuMemcpyHtoD", nullptr, to, from, bytes, true);
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t bytes, void* stream) {
    ENTER;
    return copy_to_device("cuMemcpyHtoDAsync", stream, to, from, bytes, false);
}

int cuMemcpyDtoH_v2(void* to, uint64_t from, size_t bytes) {
    ENTER;
    return copy_to_host("cuMemcpyDtoH", nullptr, to, from, bytes, true);
}

int cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t bytes, void* stream) {
    ENTER;
    return copy_to_host("cuMemcpyDtoHAsync", stream, to, from, bytes, false);
}

int cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t bytes) {
    ENTER;
    return copy_on_device("cuMemcpyDtoD", nullptr, to, from, bytes);
}

int cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t bytes, void* stream) {
    ENTER;
    return copy_on_device("cuMemcpyDtoDAsync", stream, to, from, bytes);
}

int cuMemsetD8_v2(uint64_t at, unsigned char value, size_t count) {
    ENTER;
    return set("cuMemsetD8", nullptr, at, value, count);
}

int cuMemsetD8Async(uint64_t at, unsigned char value, size_t count, void* stream) {
    ENTER;
    return set("cuMemsetD8Async", stream, at, value, count);
}

int cuMemsetD16_v2(uint64_t at, unsigned short value, size_t count) {
    ENTER;
    return set("cuMemsetD16", nullptr, at, value, count);
}

int cuMemsetD16Async(uint64_t at, unsigned short value, size_t count, void* stream) {
    ENTER;
    return set("cuMemsetD16Async", stream, at, value, count);
}

int cuMemsetD32_v2(uint64_t at, unsigned value, size_t count) {
    ENTER;
    return set("cuMemsetD32", nullptr, at, value, count);
}

int cuMemsetD32Async(uint64_t at, unsigned value, size_t count, void* stream) {
    ENTER;
    return set("cuMemsetD32Async", stream, at, value, count);
}

// ---- Streams and events

int cuStreamCreateWithPriority(void** stream, unsigned flags, int priority) {
    ENTER;
    if (flags > 1) return INVALID_VALUE;
    *stream = new_stream(flags == 0, priority).get();
    return SUCCESS;
}

int cuStreamCreate(void** stream, unsigned flags) { return cuStreamCreateWithPriority(stream, flags, 0); }

int cuStreamGetPriority(void* handle, int* priority) {
    ENTER;
    const Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    *priority = stream->priority;
    return SUCCESS;
}

int cuStreamDestroy_v2(void* handle) {
    ENTER_TO_DESTROY;
    Stream* stream = reinterpret_cast<uintptr_t>(handle) > 2 ? stream_of(handle) : nullptr;
    if (!stream) return destroy_unknown("stream", handle);
    stream->capture = nullptr;
    // What is queued still runs.
    stream->destroyed = true;
    forget_destroyed();
    return lost;
}

int cuStreamSynchronize(void* handle) {
    ENTER;
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) {
        say("cuStreamSynchronize of stream %d, which is captured", stream->number);
        invalidate(*stream);
        return CAPTURE_UNSUPPORTED;
    }
    if (const Code code = unsafe_in_capture("cuStreamSynchronize")) return code;
    trace_host_wait("waits");
    return run_stream(*stream);
}

int cuStreamQuery(void* handle) {
    ENTER;
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (stream->capture) {
        say("cuStreamQuery of stream %d, which is captured", stream->number);
        invalidate(*stream);
        return CAPTURE_UNSUPPORTED;
    }
    if (const Code code = unsafe_in_capture("cuStreamQuery")) return code;
    if (!stream->queue.empty()) run_some();
    // Held by `streams`: it is not destroyed.
    return lost ? lost : stream->queue.empty() ? SUCCESS : NOT_READY;
}

int cuStreamWaitEvent(void* handle, void* event, unsigned flags) {
    ENTER;
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    Event* e = static_cast<Event*>(event);
    if (!handles().events.count(e)) return INVALID_HANDLE;
    if (flags != 0) {
        say("cuStreamWaitEvent: flags are not emulated");
        return NOT_SUPPORTED;
    }
    if (++stream_waits == options().dropped_wait) return SUCCESS;
    if (!e->latest) return SUCCESS;
    if (stream->capture) {
        if (stream->capture->invalidated) return CAPTURE_INVALIDATED;
        if (e->latest->captured_in == stream->capture->graph->number) return wait(*stream, e->latest);
        say("stream %d, which is captured, is to wait for an event recorded outside", stream->number);
        invalidate(*stream);
        return CAPTURE_ISOLATION;
    }
    if (!e->latest->captured_in) return wait(*stream, e->latest);
    for (const auto& other : streams) {
        if (!other->capture || other->capture->graph->number != e->latest->captured_in) continue;
        if (stream->number == 0) {
            say("the null stream cannot join the capture of stream %d", other->number);
            invalidate(*other);
            return CAPTURE_UNSUPPORTED;
        }
        if (other->capture->invalidated) return CAPTURE_INVALIDATED;
        // A fork: what it is given from here on is captured too.
        stream->capture = other->capture;
        stream->tips = e->latest->after;
        return SUCCESS;
    }
    return CAPTURED_EVENT;
}

int cuLaunchHostFunc(void* handle, void (*function)(void*), void* data) {
    ENTER;
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    Item item;
    item.name = "host function";
    item.action = [=] {
        function(data);
        return SUCCESS;
    };
    return enqueue(*stream, std::move(item));
}

int cuEventCreate(void** event, unsigned flags) {
    ENTER;
    Event* e = new Event;
    e->flags = flags;
    handles().events.insert(e);
    *event = e;
    return SUCCESS;
}

int cuEventDestroy_v2(void* event) {
    ENTER_TO_DESTROY;
    Event* e = static_cast<Event*>(event);
    if (handles().events.erase(e) == 0) return destroy_unknown("event", event);
    delete e;
    return lost;
}

int cuEventRecord(void* event, void* handle) {
    ENTER;
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    Event* e = static_cast<Event*>(event);
    if (!handles().events.count(e)) return INVALID_HANDLE;
    if (stream->capture && stream->capture->invalidated) return CAPTURE_INVALIDATED;
    e->latest = record(*stream);
    return SUCCESS;
}

int cuEventQuery(void* event) {
    ENTER;
    Event* e = static_cast<Event*>(event);
    if (!handles().events.count(e)) return INVALID_HANDLE;
    if (const Code code = unsafe_in_capture("cuEventQuery")) return code;
    if (!e->latest) return SUCCESS;
    if (e->latest->captured_in) return CAPTURED_EVENT;
    if (!e->latest->done) run_some();
    if (lost) return lost;
    if (!e->latest->done) return NOT_READY;
    host_reached(e->latest->time);
    return SUCCESS;
}

int cuEventSynchronize(void* event) {
    ENTER;
    Event* e = static_cast<Event*>(event);
    if (!handles().events.count(e)) return INVALID_HANDLE;
    if (const Code code = unsafe_in_capture("cuEventSynchronize")) return code;
    trace_host_wait(e->flags & EVENT_BLOCKING_SYNC ? "sleeps" : "spins");
    if (++host_waits == options().dropped_host_wait) return SUCCESS;
    if (!e->latest) return SUCCESS;
    if (e->latest->captured_in) return CAPTURED_EVENT;
    const auto recording = e->latest;
    const Code code = run_until([&recording] { return recording->done; });
    if (recording->done) host_reached(recording->time);
    return code;
}

int cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
    ENTER;
    const Event* events[2] = {static_cast<Event*>(start), static_cast<Event*>(end)};
    for (const Event* e : events) {
        if (!handles().events.count(const_cast<Event*>(e)) || (e->flags & EVENT_DISABLE_TIMING) || !e->latest ||
            e->latest->captured_in) {
            say("cuEventElapsedTime: an event that was not recorded, or does not take the time");
            return INVALID_HANDLE;
        }
    }
    if (!events[0]->latest->done || !events[1]->latest->done) return NOT_READY;
    *milliseconds = static_cast<float>(events[1]->latest->time - events[0]->latest->time);
    return SUCCESS;
}

// ---- Modules and launches

int cuModuleLoadData(void** module, const void* image) {
    ENTER;
    if (const Code code = unsafe_in_capture("cuModuleLoadData")) return code;
    if (!image) return INVALID_VALUE;
    std::string source;
    if (const Code code = check_image(static_cast<const char*>(image), source)) return code;
    Module* m = new Module;
    m->source = source;
    handles().modules.insert(m);
    *module = m;
    return SUCCESS;
}

int cuModuleLoadDataEx(void** module, const void* image, unsigned, void*, void**) {
    return cuModuleLoadData(module, image);
}

int cuModuleUnload(void* module) {
    ENTER_TO_DESTROY;
    Module* m = static_cast<Module*>(module);
    if (handles().modules.erase(m) == 0) return destroy_unknown("module", module);
    for (const auto& [name, function] : m->functions) handles().functions.erase(function.get());
    delete m;
    return lost;
}

int cuModuleGetFunction(void** function, void* module, const char* name) {
    ENTER;
    Module* m = static_cast<Module*>(module);
    if (!handles().modules.count(m)) return INVALID_HANDLE;
    const emulation::Registered* kernel = emulation::find(name);
    if (!kernel) {
        say("cuModuleGetFunction: there is no kernel %s", name);
        return NOT_FOUND;
    }
    if (!m->source.empty() && m->source != stem(kernel->file)) {
        say("cuModuleGetFunction: %s is not in the module of %s.cu, but of %s.cu", name, m->source.c_str(),
            stem(kernel->file).c_str());
        return NOT_FOUND;
    }
    auto& place = m->functions[name];
    if (!place) {
        place = std::make_unique<Function>();
        place->kernel = kernel;
        handles().functions.insert(place.get());
    }
    *function = place.get();
    return SUCCESS;
}

int cuModuleGetGlobal_v2(uint64_t*, size_t*, void*, const char* name) {
    ENTER;
    say("cuModuleGetGlobal: %s: kernels have no global variables here", name);
    return NOT_FOUND;
}

int cuFuncGetAttribute(int* value, int attribute, void* function) {
    ENTER;
    const Function* f = static_cast<Function*>(function);
    if (!handles().functions.count(const_cast<Function*>(f))) return INVALID_HANDLE;
    switch (attribute) {
        case 0: *value = static_cast<int>(f->kernel->most_threads); return SUCCESS;
        // Shared memory, constants, local memory: what ptxas knows and g++ does not.
        case 1: case 2: case 3: *value = 0; return SUCCESS;
        // The most registers that as many threads leave each other.
        case 4: *value = std::min(255, 65536 / static_cast<int>(f->kernel->most_threads)); return SUCCESS;
        case 5: *value = 80; return SUCCESS;
        case 6: *value = options().major * 10 + options().minor; return SUCCESS;
        case 8: *value = static_cast<int>(f->most_dynamic_shared); return SUCCESS;
        default: *value = 0; return attribute >= 0 && attribute <= 16 ? SUCCESS : INVALID_VALUE;
    }
}

int cuFuncSetAttribute(void* function, int attribute, int value) {
    ENTER;
    Function* f = static_cast<Function*>(function);
    if (!handles().functions.count(f)) return INVALID_HANDLE;
    if (attribute == 8) {
        if (value < 0 || static_cast<size_t>(value) > most_shared()) return INVALID_VALUE;
        f->most_dynamic_shared = std::max<size_t>(SHARED_WITHOUT_ASKING, static_cast<size_t>(value));
    }
    return SUCCESS;
}

int cuFuncSetCacheConfig(void* function, int) {
    ENTER;
    return handles().functions.count(static_cast<Function*>(function)) ? SUCCESS : INVALID_HANDLE;
}

int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, void* function, int threads, size_t shared) {
    ENTER;
    if (!handles().functions.count(static_cast<Function*>(function))) return INVALID_HANDLE;
    if (threads <= 0 || threads > 1024) return INVALID_VALUE;
    const size_t by_shared = (most_shared() + 1024) / (shared + 1024);
    *blocks = std::min({32, threads_a_multiprocessor() / threads, static_cast<int>(by_shared)});
    return SUCCESS;
}

int cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, void* function, int threads, size_t shared,
                                                         unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}

int cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** parameters,
                   void** extra) {
    ENTER;
    Function* f = static_cast<Function*>(function);
    if (!handles().functions.count(f)) {
        say("cuLaunchKernel: %p is no function of a loaded module", function);
        return INVALID_HANDLE;
    }
    if (extra) {
        say("cuLaunchKernel: arguments in `extra` are not emulated");
        return NOT_SUPPORTED;
    }
    return launch(*f, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, stream, parameters, false);
}

int cuLaunchKernelEx(const LaunchConfig* config, void* function, void** parameters, void** extra) {
    ENTER;
    Function* f = static_cast<Function*>(function);
    if (!handles().functions.count(f)) {
        say("cuLaunchKernelEx: %p is no function of a loaded module", function);
        return INVALID_HANDLE;
    }
    bool dependent = false;
    for (unsigned i = 0; i < config->attribute_count; ++i) {
        const LaunchAttribute& attribute = config->attributes[i];
        if (attribute.id != PROGRAMMATIC_STREAM_SERIALIZATION || extra) {
            say("cuLaunchKernelEx: attribute %d, or arguments in `extra`, are not emulated", attribute.id);
            return NOT_SUPPORTED;
        }
        dependent = attribute.value.number != 0;
    }
    if (dependent && options().major < 9) {
        say("%s: programmatic dependent launch needs compute capability 9.0", f->kernel->name);
        return NOT_SUPPORTED;
    }
    return launch(*f, config->grid, config->block, config->shared, config->stream, parameters, dependent);
}

int cuProfilerStart() {
    ENTER;
    return SUCCESS;
}

int cuProfilerStop() {
    ENTER;
    return SUCCESS;
}

// ---- Graphs

int cuStreamBeginCapture_v2(void* handle, int mode) {
    ENTER;
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    if (mode < MODE_GLOBAL || mode > MODE_RELAXED) return INVALID_VALUE;
    if (stream->number == 0) {
        say("the null stream cannot be captured");
        return CAPTURE_UNSUPPORTED;
    }
    if (stream->capture) return ILLEGAL_STATE;
    stream->capture = std::make_shared<Capture>();
    stream->capture->origin = stream;
    stream->tips.clear();
    stream->capture->graph = std::make_unique<Graph>();
    stream->capture->graph->number = ++captures;
    stream->capture->mode = mode;
    stream->capture->thread = std::this_thread::get_id();
    return SUCCESS;
}

int cuStreamEndCapture(void* handle, void** graph) {
    ENTER;
    Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    *graph = nullptr;
    if (!stream->capture) return ILLEGAL_STATE;
    if (stream->capture->mode != MODE_RELAXED && stream->capture->thread != std::this_thread::get_id()) {
        return CAPTURE_WRONG_THREAD;
    }
    if (stream->capture->origin != stream) {
        say("cuStreamEndCapture of stream %d, where the capture did not begin", stream->number);
        return CAPTURE_UNMATCHED;
    }
    const auto capture = stream->capture;
    int unjoined = -1;
    for (const auto& other : streams) {
        if (other->capture == capture && !joined(*other, *stream)) unjoined = other->number;
    }
    for (const auto& other : streams) {
        if (other->capture == capture) other->capture = nullptr;
    }
    if (capture->invalidated) return CAPTURE_INVALIDATED;
    if (unjoined >= 0) {
        say("stream %d has forked from the capture of stream %d and does not join it", unjoined, stream->number);
        return CAPTURE_UNJOINED;
    }
    if (options().failing_capture && capture->graph->number >= options().failing_capture) {
        say("capture %llu fails as asked for", static_cast<unsigned long long>(capture->graph->number));
        return options().failing_code;
    }
    Graph* g = capture->graph.release();
    handles().graphs.insert(g);
    *graph = g;
    return SUCCESS;
}

int cuStreamIsCapturing(void* handle, int* status) {
    ENTER;
    const Stream* stream = stream_of(handle);
    if (!stream) return INVALID_HANDLE;
    *status = !stream->capture ? 0 : stream->capture->invalidated ? 2 : 1;
    return SUCCESS;
}

int cuThreadExchangeStreamCaptureMode(int* mode) {
    ENTER;
    if (*mode < MODE_GLOBAL || *mode > MODE_RELAXED) return INVALID_VALUE;
    std::swap(*mode, thread_capture_mode);
    return SUCCESS;
}

// With `nodes` null their number, as much as is emulated.
int cuGraphGetNodes(void* graph, void** nodes, size_t* count) {
    ENTER;
    const Graph* g = static_cast<Graph*>(graph);
    if (!handles().graphs.count(const_cast<Graph*>(g))) return INVALID_HANDLE;
    if (nodes) return NOT_SUPPORTED;
    *count = g->nodes.size();
    return SUCCESS;
}

int cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long flags) {
    ENTER;
    const Graph* g = static_cast<Graph*>(graph);
    if (!handles().graphs.count(const_cast<Graph*>(g))) return INVALID_HANDLE;
    // 1 frees on launch, 2 uploads, 8 takes the nodes' priorities; 4 launches from the device.
    if (flags & ~uint64_t{1 | 2 | 8}) return INVALID_VALUE;
    Executable* e = new Executable;
    e->nodes = std::make_shared<const std::vector<Node>>(g->nodes);
    handles().executables.insert(e);
    *executable = e;
    return SUCCESS;
}

int cuGraphUpload(void* executable, void* handle) {
    ENTER;
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    return handles().executables.count(static_cast<Executable*>(executable)) ? SUCCESS : INVALID_HANDLE;
}

int cuGraphLaunch(void* executable, void* handle) {
    ENTER;
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    Executable* e = static_cast<Executable*>(executable);
    if (!handles().executables.count(e)) return INVALID_HANDLE;
    Item item;
    item.kind = Item::GRAPH;
    item.name = "graph";
    item.nodes = e->nodes;
    if (stream->capture) return enqueue(*stream, std::move(item));
    if (e->latest && !e->latest->done && e->stream != stream) wait(*stream, e->latest);
    if (const Code code = enqueue(*stream, std::move(item))) return code;
    e->latest = record(*stream, "end of graph");
    e->stream = stream;
    return SUCCESS;
}

int cuGraphExecDestroy(void* executable) {
    ENTER_TO_DESTROY;
    Executable* e = static_cast<Executable*>(executable);
    if (handles().executables.erase(e) == 0) return destroy_unknown("executable graph", executable);
    delete e;
    return lost;
}

int cuGraphDestroy(void* graph) {
    ENTER_TO_DESTROY;
    Graph* g = static_cast<Graph*>(graph);
    if (handles().graphs.erase(g) == 0) return destroy_unknown("graph", graph);
    delete g;
    return lost;
}

// ---- For other emulated libraries

// Queues a call of `function` with a copy of `data`, as a kernel would be.
int emulated_enqueue(void* handle, void (*function)(void*), const void* data, size_t bytes) {
    ENTER;
    Stream* stream = nullptr;
    if (const Code code = find_stream(handle, stream)) return code;
    // 16 bytes a unit: any type finds its alignment.
    auto copy = std::make_shared<std::vector<uint4>>((bytes + sizeof(uint4) - 1) / sizeof(uint4));
    if (bytes) std::memcpy(copy->data(), data, bytes);
    Item item;
    item.name = "call";
    item.action = [=] {
        // Its own for each run: a graph runs it again.
        std::vector<uint4> own = *copy;
        function(own.data());
        return SUCCESS;
    };
    return enqueue(*stream, std::move(item));
}

// 0 where `bytes` at a pointer lie within one live allocation.
int emulated_check(const void* at, size_t bytes) {
    std::lock_guard<std::recursive_mutex> lock(everything);
    return allocation_of(at, bytes) ? SUCCESS : INVALID_VALUE;
}

}  // extern "C"
