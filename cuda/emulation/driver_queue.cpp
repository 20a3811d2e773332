// Streams, events and graphs of the emulated driver: what may run next, and which of it does.
#include "driver.h"

#include <signal.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>

namespace driver {

std::vector<std::shared_ptr<Stream>>& streams = *new std::vector<std::shared_ptr<Stream>>;
Code lost = SUCCESS;
std::recursive_mutex& everything = *new std::recursive_mutex;

namespace {

int streams_made = 0;
uint64_t items_made = 0;
// What the host has waited for, in milliseconds: nothing queued later begins earlier.
double host_time = 0;
const Item* current = nullptr;
uint64_t launches = 0;
FILE* trace = nullptr;

uint64_t mixed(uint64_t x) {
    // The finaliser of splitmix64 (Steele et al., OOPSLA 2014).
    x += 0x9e3779b97f4a7c15ull;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

uint64_t draw_below(uint64_t n) { return (draw() >> 32) * n >> 32; }

// 1 to 20 microseconds, the same whatever the order.
double duration_of(uint64_t item) {
    return 1e-3 + 19e-3 * static_cast<double>(mixed(options().seed ^ mixed(item)) >> 11) / (1ull << 53);
}

bool runnable(const Stream& stream) {
    if (stream.queue.empty()) return false;
    const Item& head = stream.queue.front();
    return head.kind != Item::WAIT || head.recording->done;
}

// Once the device is lost, nothing that is queued runs any more.
Code lose(Code code) {
    lost = code;
    for (auto& stream : streams) stream->queue.clear();
    return code;
}

// A stray access may be to the very stack of a kernel's thread.
void need_signal_stack() {
#if !defined(__SANITIZE_ADDRESS__)
    static thread_local bool there = false;
    if (there) return;
    there = true;
    stack_t now = {};
    if (sigaltstack(nullptr, &now) == 0 && !(now.ss_flags & SS_DISABLE)) return;
    constexpr size_t SIZE = 64 << 10;
    void* memory = mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return;
    stack_t ours = {};
    ours.ss_sp = memory;
    ours.ss_size = SIZE;
    sigaltstack(&ours, nullptr);
#endif
}

bool tracing() {
    if (options().trace.empty()) return false;
    if (!trace) trace = std::fopen(options().trace.c_str(), "a");
    if (!trace) stop("EMULATED_TRACE: cannot write %s", options().trace.c_str());
    return true;
}

// Each argument: a pointer as the number of its allocation, the offset in it and the allocation's bytes, `p3+256/4096`
// (`p0` is null); anything else as its bytes in hexadecimal, as they lie in memory.
void write_arguments(Launch& launch) {
    for (size_t i = 0; i < launch.kernel->arguments; ++i) {
        const char* value = launch.argument(i);
        if (!launch.kernel->argument_pointers[i]) {
            std::fputc(' ', trace);
            for (size_t j = 0; j < launch.kernel->argument_sizes[i]; ++j) {
                std::fprintf(trace, "%02x", static_cast<unsigned char>(value[j]));
            }
            continue;
        }
        const char* pointer = nullptr;
        std::memcpy(&pointer, value, sizeof pointer);
        const Allocation* a = pointer ? allocation_of(pointer, 1) : nullptr;
        if (a) {
            std::fprintf(trace, " p%llu+%zu/%zu", static_cast<unsigned long long>(a->number),
                         static_cast<size_t>(pointer - a->start), a->bytes);
        } else {
            std::fputs(" p0", trace);
        }
    }
}

void write_trace(const Stream& stream, const Item& item) {
    if (!tracing()) return;
    static const char* const kinds[] = {"kernel", "copy", "set", "call", "record", "wait", "graph"};
    std::fprintf(trace, "%d %s %s", stream.number, kinds[item.kind], item.name);
    if (item.launch) {
        const Launch& l = *item.launch;
        std::fprintf(trace, " %u,%u,%u %u", l.grid.x, l.grid.y, l.grid.z, l.block.x * l.block.y * l.block.z);
        if (!options().run) {
            if (l.shared) std::fprintf(trace, "+%zu", l.shared);
            write_arguments(*item.launch);
        } else if (l.dependent) {
            std::fputs(" early", trace);
        }
    } else if (!options().run && item.nodes) {
        std::fprintf(trace, " %zu", item.nodes->size());
    } else if (!options().run && item.bytes) {
        std::fprintf(trace, " %zu", item.bytes);
    }
    std::fputc('\n', trace);
    std::fflush(trace);
}

// Whether a launch that may begin early is watched for what it touches before it waits: the first of each kernel, and one
// in 16 of the others.
bool looks_early(const char* kernel) {
    static auto& seen = *new std::set<std::string>;
    return seen.insert(kernel).second || draw_below(16) == 0;
}

Code run_kernel(Launch& launch) {
    if (!options().run) return SUCCESS;
    std::vector<void*> arguments(launch.offsets.size());
    for (size_t i = 0; i < arguments.size(); ++i) arguments[i] = launch.argument(i);
    const auto& kernel = *launch.kernel;
    const auto run = [&](auto function, auto... more) {
        return function(kernel.name, launch.grid, launch.block, launch.shared, arguments.data(), kernel.argument_sizes,
                        arguments.size(), draw(), more...);
    };
    int refused = 0;
    if (!launch.dependent) {
        refused = run(emulate_launch);
    } else if (!looks_early(kernel.name)) {
        refused = run(emulate_dependent_launch, nullptr);
    } else {
        forbid_device_memory();
        refused = run(emulate_dependent_launch, allow_device_memory);
        allow_device_memory();
    }
    if (refused != 0) {
        say("%s", emulate_error());
        return LAUNCH_FAILED;
    }
    return SUCCESS;
}

Code run_graph(const Stream& stream, const std::vector<Node>& nodes);

Code run_item(const Stream& stream, const Item& item) {
    write_trace(stream, item);
    if (item.kind == Item::GRAPH) return run_graph(stream, *item.nodes);
    current = &item;
    Code code = SUCCESS;
    if (item.launch) {
        code = run_kernel(*item.launch);
    } else if (item.action && (options().run || item.kind != Item::SET)) {
        code = item.action();
    }
    if (options().run && (item.kind == Item::KERNEL || item.kind == Item::CALL)) check_guards();
    current = nullptr;
    return code;
}

// Runs the nodes in an order that their edges allow: whichever comes up, or those of one stream as long as they can,
// then those of another.
Code run_graph(const Stream& stream, const std::vector<Node>& nodes) {
    std::vector<size_t> left(nodes.size()), ready;
    std::vector<std::vector<size_t>> behind(nodes.size());
    for (size_t i = 0; i < nodes.size(); ++i) {
        left[i] = nodes[i].after.size();
        for (const size_t before : nodes[i].after) behind[before].push_back(i);
        if (left[i] == 0) ready.push_back(i);
    }
    const bool by_stream = draw() >> 63;
    const uint64_t rank = draw();
    const auto ranked = [&](size_t node) { return mixed(rank ^ static_cast<uint64_t>(nodes[node].stream)); };
    const auto later = [&](size_t a, size_t b) { return ranked(a) < ranked(b); };
    while (!ready.empty()) {
        const auto first = by_stream ? std::max_element(ready.begin(), ready.end(), later)
                                     : ready.begin() + static_cast<std::ptrdiff_t>(draw_below(ready.size()));
        const size_t node = *first;
        ready.erase(first);
        if (const Code code = run_item(stream, nodes[node].item)) return code;
        for (const size_t next : behind[node]) {
            if (--left[next] == 0) ready.push_back(next);
        }
    }
    return SUCCESS;
}

// Runs the head of a stream that can run.
Code run_head(Stream& stream) {
    const Item item = std::move(stream.queue.front());
    stream.queue.pop_front();
    stream.time = std::max(stream.time, item.earliest) + item.duration;
    if (item.kind == Item::WAIT) stream.time = std::max(stream.time, item.recording->time);
    if (item.kind == Item::KERNEL || item.kind == Item::GRAPH) {
        if (++launches == options().failing_launch) {
            say("launch %llu, %s, fails as asked for", static_cast<unsigned long long>(launches), item.name);
            return lose(options().failing_code);
        }
    }
    if (const Code code = run_item(stream, item)) return lose(code);
    if (item.kind == Item::RECORD) {
        item.recording->time = stream.time;
        item.recording->done = true;
    }
    return SUCCESS;
}

// How a stream is chosen: all alike, or always the first that can run, in an order drawn anew now and then. The second
// lets one stream get far ahead of another.
std::vector<int>& order = *new std::vector<int>;
uint64_t left_in_order = 0;
bool by_order = false;

Stream* choose() {
    std::vector<Stream*> ready;
    for (auto& stream : streams) {
        if (runnable(*stream)) ready.push_back(stream.get());
    }
    if (ready.empty()) return nullptr;
    if (left_in_order == 0 || order.size() != streams.size()) {
        left_in_order = 1 + draw_below(32);
        by_order = draw() >> 63;
        order.resize(streams.size());
        for (size_t i = 0; i < order.size(); ++i) order[i] = static_cast<int>(i);
        for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[draw_below(i + 1)]);
    }
    --left_in_order;
    if (!by_order) return ready[draw_below(ready.size())];
    for (const int i : order) {
        if (runnable(*streams[i])) return streams[i].get();
    }
    return nullptr;
}

void append(Stream& stream, Item item) {
    item.duration = item.kind == Item::RECORD || item.kind == Item::WAIT ? 0 : item.duration;
    item.earliest = host_time;
    stream.queue.push_back(std::move(item));
}

// What was queued on `before` comes before what will be queued on `after`.
void order_behind(Stream& before, Stream& after) {
    if (before.queue.empty()) return;
    Item mark;
    mark.kind = Item::RECORD;
    mark.name = "implicit";
    mark.recording = std::make_shared<Recording>();
    Item wait;
    wait.kind = Item::WAIT;
    wait.name = "implicit";
    wait.recording = mark.recording;
    append(before, std::move(mark));
    append(after, std::move(wait));
}

void order_with_null_stream(Stream& stream) {
    if (&stream == &null_stream()) {
        for (auto& other : streams) {
            if (other->blocking && other.get() != &stream) order_behind(*other, stream);
        }
    } else if (stream.blocking) {
        order_behind(null_stream(), stream);
    }
}

}  // namespace

void trace_host_wait(const char* how) {
    if (!tracing()) return;
    std::fprintf(trace, "host %s\n", how);
    std::fflush(trace);
}

uint64_t draw() {
    static uint64_t drawn = 0;
    return mixed(mixed(options().seed) + ++drawn);
}

std::shared_ptr<Stream> new_stream(bool blocking, int priority) {
    auto stream = std::make_shared<Stream>();
    stream->number = streams_made++;
    stream->blocking = blocking;
    stream->priority = priority;
    streams.push_back(stream);
    return stream;
}

Stream& null_stream() {
    if (streams.empty()) new_stream(true, 0);
    return *streams.front();
}

Code enqueue(Stream& stream, Item item) {
    item.duration = duration_of(++items_made);
    if (item.kind == Item::GRAPH) {
        item.duration = 0;
        for (const Node& node : *item.nodes) item.duration += node.item.duration;
    }
    if (stream.capture) {
        if (stream.capture->invalidated) return CAPTURE_INVALIDATED;
        auto& nodes = stream.capture->graph->nodes;
        nodes.push_back({std::move(item), stream.tips, stream.number});
        stream.tips = {nodes.size() - 1};
        return SUCCESS;
    }
    order_with_null_stream(stream);
    append(stream, std::move(item));
    // One seed in four also runs work while more is being queued, as a device does.
    if (options().seed % 4 == 3) run_some();
    return SUCCESS;
}

std::shared_ptr<Recording> record(Stream& stream, const char* name) {
    Item item;
    item.kind = Item::RECORD;
    item.name = name;
    item.recording = std::make_shared<Recording>();
    auto recording = item.recording;
    if (stream.capture) {
        // Its place in the graph means something to this graph alone.
        recording->captured_in = stream.capture->graph->number;
        recording->after = stream.tips;
        return recording;
    }
    order_with_null_stream(stream);
    append(stream, std::move(item));
    return recording;
}

Code wait(Stream& stream, const std::shared_ptr<Recording>& recording) {
    if (stream.capture) {
        for (const size_t node : recording->after) {
            auto& tips = stream.tips;
            if (std::find(tips.begin(), tips.end(), node) == tips.end()) tips.push_back(node);
        }
        return SUCCESS;
    }
    Item item;
    item.kind = Item::WAIT;
    item.name = "event";
    item.recording = recording;
    order_with_null_stream(stream);
    append(stream, std::move(item));
    return SUCCESS;
}

bool joined(const Stream& stream, const Stream& origin) {
    const auto& nodes = origin.capture->graph->nodes;
    std::vector<bool> before(nodes.size());
    for (const size_t tip : origin.tips) before[tip] = true;
    for (size_t i = nodes.size(); i-- > 0;) {
        if (!before[i]) continue;
        for (const size_t node : nodes[i].after) before[node] = true;
    }
    return std::all_of(stream.tips.begin(), stream.tips.end(), [&](size_t tip) { return before[tip]; });
}

Code run_until(const std::function<bool()>& done) {
    need_signal_stack();
    while (lost == SUCCESS && !done()) {
        Stream* stream = choose();
        if (!stream) {
            say("nothing that is queued can run: a wait for an event that never comes");
            return lose(UNKNOWN);
        }
        run_head(*stream);
    }
    forget_destroyed();
    return lost;
}

Code run_all() {
    const Code code = run_until([] {
        return std::all_of(streams.begin(), streams.end(), [](const auto& s) { return s->queue.empty(); });
    });
    for (const auto& stream : streams) host_reached(stream->time);
    return code;
}

void run_some() {
    need_signal_stack();
    static unsigned idle = 0;
    uint64_t count = draw_below(3);
    // Whoever polls comes to an end.
    idle = count == 0 ? idle + 1 : 0;
    if (idle == 8) count = 1;
    for (; count > 0 && lost == SUCCESS; --count) {
        Stream* stream = choose();
        if (!stream) break;
        run_head(*stream);
    }
    forget_destroyed();
}

bool in_use(const Allocation& pinned) {
    const auto inside = [&pinned](const Item& item) {
        const char* host = static_cast<const char*>(item.host);
        return host && host < pinned.start + pinned.bytes && host + item.host_bytes > pinned.start;
    };
    for (const auto& stream : streams) {
        for (const Item& item : stream->queue) {
            if (inside(item)) return true;
            if (item.nodes && std::any_of(item.nodes->begin(), item.nodes->end(),
                                         [&](const Node& node) { return inside(node.item); })) {
                return true;
            }
        }
    }
    return false;
}

void forget_destroyed() {
    streams.erase(std::remove_if(streams.begin(), streams.end(),
                                 [](const auto& s) { return s->destroyed && s->queue.empty(); }),
                  streams.end());
}

void host_reached(double time) { host_time = std::max(host_time, time); }

uint64_t launches_run() { return launches; }

const Item* running() { return current; }

}  // namespace driver
