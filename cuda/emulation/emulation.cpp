// The scheduler behind emulation.h, and the launch that tests call. Not thread-safe: one launch at a time.
#include "emulation.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace emulation {
namespace {

// ---- Fibers ----------------------------------------------------------------------------------------------------

#if defined(__x86_64__)
// Keeps the callee-saved registers on the stack and the stack's address in *from, then continues at `to`.
extern "C" void emulation_switch(void** from, void* to);
asm(R"(
    .text
    .globl emulation_switch
    .hidden emulation_switch
    .type emulation_switch, @function
emulation_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulation_switch, . - emulation_switch
)");

struct Context {
    void* stack_pointer = nullptr;
};

void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
    // As a call would leave it: the entry finds its stack pointer 8 below a multiple of 16.
    void** top = reinterpret_cast<void**>(stack + size - 64);
    *--top = nullptr;
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    context.stack_pointer = top;
}

void switch_context(Context& from, Context& to) { emulation_switch(&from.stack_pointer, to.stack_pointer); }
#else
}  // namespace
}  // namespace emulation
#include <ucontext.h>
namespace emulation {
namespace {
struct Context {
    ucontext_t context;
};

void prepare(Context& context, char* stack, size_t size, void (*entry)()) {
    getcontext(&context.context);
    context.context.uc_stack.ss_sp = stack;
    context.context.uc_stack.ss_size = size;
    context.context.uc_link = nullptr;
    makecontext(&context.context, entry, 0);
}

void switch_context(Context& from, Context& to) { swapcontext(&from.context, &to.context); }
#endif

constexpr unsigned MOST_THREADS = 1024;
// AddressSanitizer pads every local array.
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t STACK = 256 << 10;
#else
constexpr size_t STACK = 64 << 10;
#endif
constexpr size_t PAGE = 4 << 10;
constexpr size_t GUARD = PAGE;
// Of the cache.
constexpr size_t LINE = 64;
// NaN in every floating type.
constexpr int POISON = 0xff;

enum class State { READY, AT_BARRIER, IN_WARP, DONE };

struct Copy {
    void* shared;
    const void* global;
    unsigned bytes, filled;
};

// What a thread has begun in groups and not waited for, oldest first. It keeps its memory: each block has thousands.
template <typename T>
struct Groups {
    std::vector<T> all;
    // Where each group that was committed ends; what lies behind is of the open one.
    std::vector<size_t> ends;

    void clear() {
        all.clear();
        ends.clear();
    }
    // Finishes all groups but the last `pending` of those committed.
    template <typename Finish>
    void wait(unsigned pending, Finish&& finish) {
        if (ends.size() <= pending) return;
        const size_t groups = ends.size() - pending, count = ends[groups - 1];
        for (size_t i = 0; i < count; ++i) finish(all[i]);
        all.erase(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(count));
        ends.erase(ends.begin(), ends.begin() + static_cast<std::ptrdiff_t>(groups));
        for (size_t& end : ends) end -= count;
    }
};

}  // namespace

// What every turn touches comes first, in one line of the cache.
struct alignas(LINE) Thread {
    Context context;
    uint3 index{};
    unsigned number = 0;
    State state = State::DONE;
    // Where it waits.
    int line = 0;
    const char* file = nullptr;
    Complete complete = nullptr;
    Lane* lane = nullptr;
    unsigned mask = 0;
    // Whether it has waited for the kernel before this one.
    bool waited = false;
    // Whether copies have arrived that the tensor cores may not see yet.
    bool unfenced = false;
    char* stack = nullptr;
    void* fake_stack = nullptr;
    // Of cp.async.
    Groups<Copy> copies;
    // Of wgmma.
    Groups<Product> products;
};

Thread* current = nullptr;
uint3 thread_index, block_index, block_size, grid_size;

namespace {

std::vector<Thread> threads;
unsigned thread_count = 0;
// Bit l of word w: lane l of warp w can run.
uint32_t ready[MOST_THREADS / 32];
// Likewise: it waits in a warp operation.
uint32_t in_warp[MOST_THREADS / 32];
unsigned warp_count = 0;
// Every second block lets warps run ahead in this order instead of all at random: a hazard between a warp that is
// already at its next write and one that has yet to read is otherwise all but never met.
unsigned warp_order[MOST_THREADS / 32];
// Where each warp comes in it, and which places have a warp of which a lane can run.
unsigned warp_place[MOST_THREADS / 32];
uint32_t ready_places = 0;
bool by_warp = false;
// Whether products of this block are made when they are waited for.
bool late_products = false;
// Threads of this block that are `unfenced`.
unsigned unfenced_threads = 0;
Context host;
void* host_fake_stack = nullptr;
#if defined(__SANITIZE_ADDRESS__)
const void* host_stack = nullptr;
size_t host_stack_size = 0;
#endif
char* shared_memory = nullptr;
size_t shared_size = 0;
const Registered* running = nullptr;
void** running_arguments = nullptr;
// Whether the launch may begin before the one before it has ended.
bool dependent = false;
// To be called once all threads of the first block have waited for that; null where nobody asks.
void (*all_have_waited)() = nullptr;
bool failed = false;
std::string message;
uint64_t random_state = 0;
// Over all launches.
uint64_t blocks_run = 0;
// This launch's own: seeds that follow each other give a block both kinds of order.
uint64_t blocks_of_launch = 0;
uint64_t launch_seed = 0;

uint64_t draw() {
    // xorshift64* (Vigna, arXiv 1402.6246).
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1Dull;
}

unsigned draw_below(unsigned n) { return static_cast<unsigned>(((draw() >> 32) * n) >> 32); }

// First thing on a fiber, or after a switch back to it.
void arrived(void* fake_stack) {
#if defined(__SANITIZE_ADDRESS__)
    const void* from = nullptr;
    size_t size = 0;
    __sanitizer_finish_switch_fiber(fake_stack, &from, &size);
    if (host_stack == nullptr) {
        host_stack = from;
        host_stack_size = size;
    }
#else
    (void)fake_stack;
#endif
}

void go_to_thread(Context& from, void** from_fake_stack, Thread& to) {
    current = &to;
    thread_index = to.index;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(from_fake_stack, to.stack, STACK);
#else
    (void)from_fake_stack;
#endif
    switch_context(from, to.context);
}

[[noreturn]] void go_to_host(bool for_good) {
    Thread& thread = *current;
    current = nullptr;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(for_good ? nullptr : &thread.fake_stack, host_stack, host_stack_size);
#else
    (void)for_good;
#endif
    switch_context(thread.context, host);
    __builtin_unreachable();
}

const char* base_name(const char* path) {
    const char* slash = std::strrchr(path, '/');
    return slash ? slash + 1 : path;
}

// Lanes of a warp.
void set_ready(unsigned warp, uint32_t lanes) {
    for (uint32_t left = lanes; left != 0; left &= left - 1) {
        threads[warp * 32 + static_cast<unsigned>(__builtin_ctz(left))].state = State::READY;
    }
    ready[warp] |= lanes;
    in_warp[warp] &= ~lanes;
    ready_places |= 1u << warp_place[warp];
}

// Nobody can run, and not everybody is done: either all are at one barrier, which opens, or the kernel is wrong.
void open_barrier() {
    const Thread* waiting = nullptr;
    const Thread* other = nullptr;
    for (unsigned i = 0; i < thread_count; ++i) {
        const Thread& thread = threads[i];
        if (thread.state == State::IN_WARP) {
            // Someone of its mask never comes.
            unsigned absent = 0;
            for (unsigned lane = 0; lane < 32; ++lane) {
                const Thread& peer = threads[i / 32 * 32 + lane];
                const bool here = peer.state == State::IN_WARP && peer.file == thread.file && peer.line == thread.line;
                if ((thread.mask >> lane & 1u) && !here) absent |= 1u << lane;
            }
            fail("%s: warp operation at %s:%d waits for lanes %08x of warp %u, which exited, wait elsewhere, or name "
                 "another mask than %08x",
                 running->name, base_name(thread.file), thread.line, absent, i / 32, thread.mask);
        }
        if (thread.state == State::AT_BARRIER && !waiting) waiting = &thread;
    }
    for (unsigned i = 0; i < thread_count; ++i) {
        const Thread& thread = threads[i];
        if (thread.state == State::DONE || thread.line != waiting->line || thread.file != waiting->file) {
            other = &thread;
        }
    }
    if (other && other->state == State::DONE) {
        fail("%s: thread %u waits at the barrier %s:%d, but thread %u has exited", running->name, waiting->number,
             base_name(waiting->file), waiting->line, other->number);
    }
    if (other) {
        fail("%s: thread %u waits at the barrier %s:%d, but thread %u at %s:%d", running->name, waiting->number,
             base_name(waiting->file), waiting->line, other->number, base_name(other->file), other->line);
    }
    for (unsigned i = 0; i < warp_count; ++i) set_ready(i, ~0u);
}

// The number of a warp of which a lane can run, or warp_count: the first at or behind the start.
unsigned choose_warp() {
    const unsigned start = by_warp ? 0 : draw_below(warp_count);
    if (ready_places == 0) return warp_count;
    const uint32_t behind = ready_places >> start << start;
    return warp_order[__builtin_ctz(behind != 0 ? behind : ready_places)];
}

Thread& take_ready() {
    unsigned warp = choose_warp();
    if (warp == warp_count) {
        open_barrier();
        warp = choose_warp();
    }
    const unsigned turn = draw_below(32);
    const uint32_t turned = ready[warp] >> turn | ready[warp] << (32 - turn) % 32;
    const unsigned lane = (static_cast<unsigned>(__builtin_ctz(turned)) + turn) % 32;
    ready[warp] &= ~(1u << lane);
    if (ready[warp] == 0) ready_places &= ~(1u << warp_place[warp]);
    return threads[warp * 32 + lane];
}

// The current thread has said what it waits for: lets another one run until this one is ready and drawn.
void wait_for_turn() {
    Thread& self = *current;
    Thread& next = take_ready();
    if (&next == &self) return;
    go_to_thread(self.context, &self.fake_stack, next);
    arrived(self.fake_stack);
}

void finish(const Copy& copy) {
    std::memcpy(copy.shared, copy.global, copy.filled);
    std::memset(static_cast<char*>(copy.shared) + copy.filled, 0, copy.bytes - copy.filled);
}

void thread_main() {
    arrived(nullptr);
    running->call(running->function, running_arguments);
    Thread& self = *current;
    if (!self.copies.all.empty()) {
        fail("%s: thread %u exits before cp.async copies were waited for", running->name, self.number);
    }
    if (dependent && !self.waited) {
        fail("%s: thread %u ends and has not waited for the kernel before it", running->name, self.number);
    }
    if (!self.products.all.empty()) fail("%s: thread %u exits before wgmma was waited for", running->name, self.number);
    self.state = State::DONE;
    bool all_done = choose_warp() == warp_count;
    for (unsigned i = 0; all_done && i < thread_count; ++i) all_done = threads[i].state == State::DONE;
    if (all_done) go_to_host(true);
    Thread& next = take_ready();
#if defined(__SANITIZE_ADDRESS__)
    // No place to keep the fake stack: this fiber is over.
    go_to_thread(self.context, nullptr, next);
#else
    go_to_thread(self.context, &self.fake_stack, next);
#endif
    __builtin_unreachable();
}

void run_block(const Registered& kernel, void** arguments) {
    ++blocks_run;
    std::memset(shared_memory, POISON, shared_size);
    running = &kernel;
    running_arguments = arguments;
#if defined(__SANITIZE_ADDRESS__)
    // The next launch may come from another of the test's threads.
    host_stack = nullptr;
#endif
    warp_count = thread_count / 32;
    unfenced_threads = 0;
    late_products = (blocks_of_launch + launch_seed) / 2 % 2 == 0;
    by_warp = (blocks_of_launch++ + launch_seed) % 2 == 0;
    for (unsigned i = 0; i < warp_count; ++i) {
        ready[i] = 0;
        in_warp[i] = 0;
        warp_order[i] = i;
    }
    for (unsigned i = warp_count - 1; i > 0; --i) std::swap(warp_order[i], warp_order[draw_below(i + 1)]);
    for (unsigned i = 0; i < warp_count; ++i) warp_place[warp_order[i]] = i;
    ready_places = 0;
    for (unsigned i = 0; i < thread_count; ++i) {
        Thread& thread = threads[i];
        thread.number = i;
        thread.waited = false;
        thread.index = {i % block_size.x, i / block_size.x % block_size.y, i / (block_size.x * block_size.y)};
        thread.copies.clear();
        thread.products.clear();
        thread.unfenced = false;
#if defined(__SANITIZE_ADDRESS__)
        // What an earlier block, or a failed launch, left marked on this stack.
        __asan_unpoison_memory_region(thread.stack, STACK);
#endif
        // Each lane's stack begins at another line of a page: at the same one all would share a few lines of the cache.
        prepare(thread.context, thread.stack, STACK - i % 32 * 17 * LINE % PAGE, thread_main);
    }
    for (unsigned i = 0; i < warp_count; ++i) set_ready(i, ~0u);
    go_to_thread(host, &host_fake_stack, take_ready());
    arrived(host_fake_stack);
}

std::map<std::string, Registered>& kernels() {
    static std::map<std::string, Registered> all;
    return all;
}

bool make_threads(unsigned count) {
    if (threads.empty()) threads.resize(MOST_THREADS);
    for (unsigned i = 0; i < count; ++i) {
        if (threads[i].stack) continue;
        void* memory = mmap(nullptr, GUARD + STACK, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory == MAP_FAILED) return false;
        mprotect(memory, GUARD, PROT_NONE);
        threads[i].stack = static_cast<char*>(memory) + GUARD;
    }
    return true;
}

int refuse(const char* format, ...) __attribute__((format(printf, 1, 2)));
int refuse(const char* format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    message = text;
    return 1;
}

}  // namespace

void fail(const char* format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    message = text;
    failed = true;
    go_to_host(true);
}

void block_barrier(const char* file, int line) {
    current->state = State::AT_BARRIER;
    current->file = file;
    current->line = line;
    wait_for_turn();
}

void await_previous(const char* file, int line) {
    current->waited = true;
    if (!all_have_waited) return;
    block_barrier(file, line);
    if (all_have_waited) std::exchange(all_have_waited, nullptr)();
}

void warp_operation(unsigned mask, Complete complete, Lane& lane, const char* file, int line) {
    Thread& self = *current;
    const unsigned first = self.number / 32 * 32;
    if (!(mask >> (self.number % 32) & 1u)) {
        fail("%s: lane %u is not in its own mask %08x at %s:%d", running->name, self.number % 32, mask,
             base_name(file), line);
    }
    self.state = State::IN_WARP;
    self.file = file;
    self.line = line;
    self.mask = mask;
    self.complete = complete;
    self.lane = &lane;
    in_warp[first / 32] |= 1u << self.number % 32;
    if (mask & ~in_warp[first / 32]) {
        wait_for_turn();
        return;
    }
    // All that it names wait: whether for the same.
    Lane* lanes[32] = {};
    for (unsigned i = 0; i < 32; ++i) {
        if (!(mask >> i & 1u)) continue;
        const Thread& peer = threads[first + i];
        if (peer.state != State::IN_WARP || peer.complete != complete || peer.mask != mask || peer.line != line ||
            peer.file != file) {
            wait_for_turn();
            return;
        }
        lanes[i] = peer.lane;
    }
    if (complete) complete(lanes, mask);
    set_ready(first / 32, mask);
    wait_for_turn();
}

unsigned lane_id() { return current->number % 32; }

void* dynamic_shared() { return shared_memory; }

void poison_static_shared(void* at, size_t size, uint64_t& poisoned_for) {
    if (poisoned_for == blocks_run) return;
    poisoned_for = blocks_run;
    std::memset(at, POISON, size);
}

void complete_shuffle(Lane* const lanes[32], unsigned mask) {
    for (unsigned i = 0; i < 32; ++i) {
        if (!(mask >> i & 1u)) continue;
        const unsigned source = static_cast<const Shuffle*>(lanes[i]->in)->source;
        if (!(mask >> source & 1u)) {
            fail("%s: lane %u shuffles from lane %u, which is not in mask %08x", running->name, i, source, mask);
        }
        *static_cast<uint64_t*>(lanes[i]->out) = static_cast<const Shuffle*>(lanes[source]->in)->value;
    }
}

void warp_barrier(unsigned mask, const char* file, int line) {
    Lane lane;
    warp_operation(mask, nullptr, lane, file, line);
}

unsigned ballot(unsigned mask, bool predicate, const char* file, int line) {
    unsigned votes = 0;
    Lane lane{&predicate, &votes};
    const auto complete = [](Lane* const lanes[32], unsigned of) {
        unsigned all = 0;
        for (unsigned i = 0; i < 32; ++i) {
            if ((of >> i & 1u) && *static_cast<const bool*>(lanes[i]->in)) all |= 1u << i;
        }
        for (unsigned i = 0; i < 32; ++i) {
            if (of >> i & 1u) *static_cast<unsigned*>(lanes[i]->out) = all;
        }
    };
    warp_operation(mask, complete, lane, file, line);
    return votes;
}

void copy_async(void* shared, const void* global, unsigned bytes, unsigned filled) {
    const auto misaligned = [bytes](const void* at) { return reinterpret_cast<uintptr_t>(at) % bytes != 0; };
    if (misaligned(shared) || misaligned(global)) {
        fail("%s: cp.async of %u bytes to or from an address that is no multiple of it", running->name, bytes);
    }
    if (filled > bytes) fail("%s: cp.async fills %u of %u bytes", running->name, filled, bytes);
    const Copy copy{shared, global, bytes, filled};
    if (draw() >> 63) {
        finish(copy);
    } else {
        current->copies.all.push_back(copy);
    }
}

void copy_async_commit() { current->copies.ends.push_back(current->copies.all.size()); }

void copy_async_wait(unsigned pending_groups) {
    const size_t before = current->copies.ends.size();
    current->copies.wait(pending_groups, finish);
    if (current->copies.ends.size() < before && !std::exchange(current->unfenced, true)) ++unfenced_threads;
}

void add_product(const Product& product) { current->products.all.push_back(product); }
unsigned first_row() { return current->number / 32 % 4 * 16; }
bool products_wait() { return late_products; }
void must_have_fenced() {
    if (unfenced_threads == 0) return;
    fail("%s: wgmma while %u threads have not called fence_async_proxy() since their copies arrived", running->name,
         unfenced_threads);
}
void fence_async_proxy() {
    if (std::exchange(current->unfenced, false)) --unfenced_threads;
}
// Order between registers and products is not looked at beyond what late products show.
void warpgroup_fence() {}
void warpgroup_commit() { current->products.ends.push_back(current->products.all.size()); }
void warpgroup_wait(unsigned pending, const char* file, int line) {
    // Each lane of a warp has as many: the instructions are for whole warpgroups.
    current->products.wait(pending, [&](const Product& product) {
        Lane lane{&product, nullptr};
        warp_operation(0xffffffffu, complete_products, lane, file, line);
    });
}

void add(const Registered& kernel) { kernels()[kernel.name] = kernel; }

const Registered* find(const char* name) {
    const auto found = kernels().find(name);
    return found == kernels().end() ? nullptr : &found->second;
}

}  // namespace emulation

// Runs a kernel to its end. `arguments` points to one pointer an argument, as for cuLaunchKernel, and `sizes` to each
// one's size in bytes, or is null. Returns 0, or 1 with a message in emulate_error().
extern "C" int emulate_launch(const char* kernel, uint3 grid, uint3 block, size_t shared, void** arguments,
                              const size_t* sizes, size_t count, uint64_t seed) {
    using namespace emulation;
    const auto found = kernels().find(kernel);
    if (found == kernels().end()) return refuse("there is no kernel %s", kernel);
    const Registered& registered = found->second;
    const uint64_t block_threads = uint64_t{block.x} * block.y * block.z;
    if (block_threads == 0 || block_threads > MOST_THREADS || block_threads % 32 != 0) {
        return refuse("%s: %llu threads a block: not a multiple of 32 up to %u", kernel,
                      static_cast<unsigned long long>(block_threads), MOST_THREADS);
    }
    if (block_threads > registered.most_threads) {
        return refuse("%s: %llu threads a block exceed its launch bound, %u", kernel,
                      static_cast<unsigned long long>(block_threads), registered.most_threads);
    }
    if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.x > 0x7fffffffu || grid.y > 65535 || grid.z > 65535) {
        return refuse("%s: a grid of %u × %u × %u blocks is beyond CUDA's limits", kernel, grid.x, grid.y, grid.z);
    }
    // 227 KiB: the most that sm_90 gives a block.
    if (shared > 227 << 10) return refuse("%s: %zu bytes of dynamic shared memory", kernel, shared);
    if (sizes) {
        if (count != registered.arguments) {
            return refuse("%s takes %zu arguments, not %zu", kernel, registered.arguments, count);
        }
        for (size_t i = 0; i < count; ++i) {
            if (sizes[i] != registered.argument_sizes[i]) {
                return refuse("%s: argument %zu has %zu bytes, not %zu", kernel, i, registered.argument_sizes[i],
                              sizes[i]);
            }
        }
    }
    thread_count = static_cast<unsigned>(block_threads);
    if (!make_threads(thread_count)) return refuse("no memory for %u stacks", thread_count);
    failed = false;
    blocks_of_launch = 0;
    launch_seed = seed;
    random_state = seed * 2 + 1;
    for (int i = 0; i < 8; ++i) draw();
    grid_size = grid;
    block_size = block;
    // Exactly as large as asked for, so that AddressSanitizer sees what lies beyond.
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, shared ? shared : 1) != 0) return refuse("no memory for shared memory");
    shared_memory = static_cast<char*>(memory);
    shared_size = shared;
    // CUDA promises no order of the blocks: a step that is prime to their number visits each once.
    const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
    uint64_t step = 1 + draw() % blocks;
    while (std::gcd(step, blocks) != 1) ++step;
    uint64_t index = draw() % blocks;
    for (uint64_t done = 0; done < blocks && !failed; ++done, index = (index + step) % blocks) {
        block_index = {static_cast<unsigned>(index % grid.x), static_cast<unsigned>(index / grid.x % grid.y),
                       static_cast<unsigned>(index / grid.x / grid.y)};
        run_block(registered, arguments);
    }
    std::free(memory);
    return failed ? 1 : 0;
}

// As emulate_launch, for a launch that may begin before the one before it has ended: each thread must wait for that one.
// `waited`, unless null, is called once every thread of the first block does.
extern "C" int emulate_dependent_launch(const char* kernel, uint3 grid, uint3 block, size_t shared, void** arguments,
                                        const size_t* sizes, size_t count, uint64_t seed, void (*waited)()) {
    emulation::dependent = true;
    emulation::all_have_waited = waited;
    const int refused = emulate_launch(kernel, grid, block, shared, arguments, sizes, count, seed);
    emulation::dependent = false;
    emulation::all_have_waited = nullptr;
    return refused;
}

// Why the last launch returned 1.
extern "C" const char* emulate_error() { return emulation::message.c_str(); }

// Name of kernel number `index` in alphabetical order, or null.
extern "C" const char* emulate_kernel(size_t index) {
    for (const auto& [name, kernel] : emulation::kernels()) {
        if (index-- == 0) return kernel.name;
    }
    return nullptr;
}
