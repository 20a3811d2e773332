// The emulated CUDA driver, for tests: a libcuda.so without a GPU. Shared by the files driver*.cpp.
//
//   driver.cpp          the cu… entry points and what a program may do wrong with them
//   driver_queue.cpp    streams, events and graphs: what may run, and in which order it does
//   driver_memory.cpp   allocations between guard pages, and what is said of a stray access
//
// Work is queued and runs when someone synchronises, in an order that a seed draws among all that streams and events
// allow. The environment (docs/kernels.md) says what the device is like and what goes wrong.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "emulation.h"

extern "C" int emulate_launch(const char* kernel, uint3 grid, uint3 block, size_t shared, void** arguments,
                              const size_t* sizes, size_t count, uint64_t seed);
extern "C" int emulate_dependent_launch(const char* kernel, uint3 grid, uint3 block, size_t shared, void** arguments,
                                        const size_t* sizes, size_t count, uint64_t seed, void (*waited)());
extern "C" const char* emulate_error();

namespace driver {

// CUresult, as far as it is used here by name.
enum Code : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_HANDLE = 400,
    ILLEGAL_STATE = 401,
    NOT_FOUND = 500,
    NOT_READY = 600,
    ILLEGAL_ADDRESS = 700,
    LAUNCH_OUT_OF_RESOURCES = 701,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
    CAPTURE_INVALIDATED = 901,
    CAPTURE_UNMATCHED = 903,
    CAPTURE_UNJOINED = 904,
    CAPTURE_ISOLATION = 905,
    CAPTURE_IMPLICIT = 906,
    CAPTURED_EVENT = 907,
    CAPTURE_WRONG_THREAD = 908,
    UNKNOWN = 999,
};

// How the process ends where an access left its allocation, and, if EMULATED_STRICT is 1, where something leaked.
constexpr int STOPPED = 86;
constexpr int UNBALANCED = 87;

// What the environment asks for; read once.
struct Options {
    uint64_t seed = 0;
    size_t memory = size_t{1} << 30;
    int version = 13000;
    int major = 9, minor = 0;
    int devices = 1;
    std::string name = "Emulated GPU";
    // The launch, counted from 1 as they run, that fails, and with which code.
    uint64_t failing_launch = 0;
    Code failing_code = SUCCESS;
    // The capture, counted from 1, from which on none ends well, and with which code.
    uint64_t failing_capture = 0;
    Code init_error = SUCCESS;
    // The cuStreamWaitEvent, and the cuEventSynchronize, that is left out; counted from 1.
    uint64_t dropped_wait = 0, dropped_host_wait = 0;
    std::string swapped_kernel;
    size_t swapped[2] = {0, 0};
    std::string trace;
    bool strict = false;
    // Whether kernels and memsets run. Where not, memory costs nothing until it is touched, and the trace has arguments.
    bool run = true;
    int multiprocessors = 8;
};
const Options& options();

// Writes a line to stderr, behind "emulated driver: ".
void say(const char* format, ...) __attribute__((format(printf, 1, 2)));
// The same, and ends the process with STOPPED.
[[noreturn]] void stop(const char* format, ...) __attribute__((format(printf, 1, 2)));
// The same as say, and counts as an unbalanced call.
void complain(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- Memory --------------------------------------------------------------------------------------------------------

struct Allocation {
    uint64_t number = 0;
    char* start = nullptr;
    size_t bytes = 0;
    bool pinned = false;
    int device = 0;
    // With the guard pages.
    char* region = nullptr;
    size_t region_bytes = 0;
};

// Fresh memory, all poison; null where there is none.
char* allocate(size_t bytes, bool pinned, int device);
// Makes it inaccessible. False where `start` is not the start of a live allocation of this kind.
bool release(const void* start, bool pinned);
// The live allocation in which all of it lies, or null.
const Allocation* allocation_of(const void* at, size_t bytes);
// Whether it touches a live allocation of this kind.
bool touches(const void* at, size_t bytes, bool pinned);
size_t used(int device);
// Until allow_device_memory, whoever touches device memory is stopped.
void forbid_device_memory();
void allow_device_memory();
// Stops where a byte beside an allocation has changed.
void check_guards();
void report_allocations();
// From now on a stray access ends the process with a message.
void catch_stray_accesses();

// ---- Queued work ---------------------------------------------------------------------------------------------------

// What cuEventRecord marks: the position in a stream at one call.
struct Recording {
    bool done = false;
    // Milliseconds on the virtual clock.
    double time = 0;
    // The number of the graph in whose capture it was recorded, or 0.
    uint64_t captured_in = 0;
    // The nodes of that graph that come before it.
    std::vector<size_t> after;
};

struct Launch {
    const emulation::Registered* kernel = nullptr;
    uint3 grid{}, block{};
    size_t shared = 0;
    // Whether it may begin before the one before it has ended.
    bool dependent = false;
    // The arguments' values, 16 bytes a unit, and where each begins.
    std::vector<uint4> values;
    std::vector<size_t> offsets;

    char* argument(size_t i) { return reinterpret_cast<char*>(values.data()) + offsets[i]; }
};

struct Node;

struct Item {
    enum Kind { KERNEL, COPY, SET, CALL, RECORD, WAIT, GRAPH } kind = CALL;
    const char* name = "";
    std::shared_ptr<Launch> launch;
    std::function<Code()> action;
    std::shared_ptr<Recording> recording;
    std::shared_ptr<const std::vector<Node>> nodes;
    // What a copy or a memset writes.
    size_t bytes = 0;
    // Pinned memory that it uses.
    const void* host = nullptr;
    size_t host_bytes = 0;
    double duration = 0;
    double earliest = 0;
};

// Of a graph: it runs after these other nodes, all before it in the graph.
struct Node {
    Item item;
    std::vector<size_t> after;
    // The number of the stream that was given it.
    int stream = 0;
};

struct Graph {
    uint64_t number = 0;
    std::vector<Node> nodes;
};

struct Executable {
    std::shared_ptr<const std::vector<Node>> nodes;
    // The end of its latest launch: it does not run beside itself.
    std::shared_ptr<Recording> latest;
    // Where that was.
    const void* stream = nullptr;
};

// Shared by the stream that it began on and those that have forked from it.
struct Capture {
    std::unique_ptr<Graph> graph;
    const void* origin = nullptr;
    int mode = 0;
    std::thread::id thread;
    bool invalidated = false;
};

struct Stream {
    int number = 0;
    bool blocking = false;
    bool destroyed = false;
    // A thread's own default stream.
    bool per_thread = false;
    int priority = 0;
    std::deque<Item> queue;
    double time = 0;
    std::shared_ptr<Capture> capture;
    // What the next node that is captured from it runs after.
    std::vector<size_t> tips;
};

struct Event {
    unsigned flags = 0;
    std::shared_ptr<Recording> latest;
};

// The null stream first. Never destroyed, as nothing here is: the report at the end of the process comes late.
extern std::vector<std::shared_ptr<Stream>>& streams;
// Set for good once something has gone wrong on the device.
extern Code lost;
extern std::recursive_mutex& everything;

// From the seed.
uint64_t draw();

std::shared_ptr<Stream> new_stream(bool blocking, int priority);
Stream& null_stream();
// Appends to a stream, or to the graph that it captures. What the null stream and blocking streams owe each other is
// put in as waits.
Code enqueue(Stream& stream, Item item);
std::shared_ptr<Recording> record(Stream& stream, const char* name = "event");
Code wait(Stream& stream, const std::shared_ptr<Recording>& recording);
// Whether all that the captured `stream` has been given comes before what `origin` ends with.
bool joined(const Stream& stream, const Stream& origin);
// Runs queued work, whichever comes up, until `done` says so; the code of what went wrong, if anything.
Code run_until(const std::function<bool()>& done);
Code run_all();
// Some of it, or none; often enough repeated, all of it.
void run_some();
// Whether queued work uses this pinned memory.
bool in_use(const Allocation& pinned);
// Drops destroyed streams that have nothing left to do.
void forget_destroyed();
// The host has waited for this time on the virtual clock.
void host_reached(double time);
// Notes that the host "sleeps" or "spins" while it waits for an event, or "waits" for a stream or all of them.
void trace_host_wait(const char* how);
// How many launches have run.
uint64_t launches_run();
// The item that is running, or null.
const Item* running();

}  // namespace driver
