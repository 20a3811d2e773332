// The emulated cuDNN, for tests: convolutions over NHWC in loops (see library.h).
//
// The heuristics put first what the program must not take: an algorithm that is not deterministic, whose results are
// garbage; one that does not work; one whose factors are rounded to TF32. The last one is right, in a workspace.

#include "library.h"

#ifndef EMULATED_CUDNN_VERSION
#define EMULATED_CUDNN_VERSION 91200
#endif
#ifndef EMULATED_CUDNN_CUDA
#define EMULATED_CUDNN_CUDA 13000
#endif

namespace {

using library::Type;

enum Status { SUCCESS = 0, BAD_PARAM = 2000, NOT_SUPPORTED = 3000, EXECUTION_FAILED = 5000 };
enum { FLOAT = 0, HALF = 2, BFLOAT16 = 9 };
enum { NHWC = 1 };
enum { CROSS_CORRELATION = 1 };
enum { NON_DETERMINISTIC = 0, DETERMINISTIC = 1 };
enum { DEFAULT_MATH = 0, TENSOR_OP_MATH = 1, FMA_MATH = 3 };
// cuDNN's numbers; the same for all three passes.
enum { GARBAGE = 0, RIGHT = 1, BROKEN = 5 };

struct Handle {
    static constexpr unsigned MAGIC = 0xcd000001;
    unsigned magic = MAGIC;
    void* stream = nullptr;
};

// Of a map [n, h, w, c], or of weights [k, r, s, c] with k as n.
struct Map {
    static constexpr unsigned MAGIC = 0xcd000002;
    unsigned magic = MAGIC;
    int type = -1, n = 0, h = 0, w = 0, c = 0;
    size_t size() const { return size_t(n) * h * w * c; }
    bool holds(const void* at) const;
};
struct Filter : Map {
    static constexpr unsigned MAGIC = 0xcd000003;
    Filter() { magic = MAGIC; }
};

struct Operation {
    static constexpr unsigned MAGIC = 0xcd000004;
    unsigned magic = MAGIC;
    int pad = -1, stride = 0, math = DEFAULT_MATH;
};

struct Perf {
    int algorithm, status;
    float time;
    size_t memory;
    int determinism, math, reserved[3];
};

#define REQUIRE(condition)                                                     \
    do {                                                                       \
        if (!(condition)) {                                                    \
            library::complain("cuDNN", "%s: not so: %s", __func__, #condition); \
            return BAD_PARAM;                                                  \
        }                                                                      \
    } while (false)

template <typename T>
bool alive(const T* t) {
    return t != nullptr && t->magic == T::MAGIC;
}

template <typename T>
Status create(T** out) {
    *out = new T;
    return SUCCESS;
}

template <typename T>
Status destroy(T* t) {
    REQUIRE(alive(t));
    t->magic = 0;
    delete t;
    return SUCCESS;
}

bool known(int type) { return type == FLOAT || type == HALF || type == BFLOAT16; }
Type type_of(int type) { return type == FLOAT ? Type::F32 : type == HALF ? Type::F16 : Type::BF16; }

bool Map::holds(const void* at) const { return library::inside(at, size() * library::size_of(type_of(type))); }

struct Work {
    enum Pass { GATHER, SCATTER, WEIGHTS } pass;
    int algorithm;
    Map small, large, filter;
    int pad, stride, math;
    const void *a, *b;
    void *out, *workspace;
};

size_t workspace_of(const Map& out) { return out.size() * sizeof(float) + 256; }

// A factor as the math type takes it.
double factor(const Work& w, const Map& map, const void* at, size_t i) {
    const double value = library::load(type_of(map.type), at, i);
    return map.type == FLOAT && w.math != FMA_MATH ? library::tf32(value) : value;
}

// Calls visit(element of the small map, of the large map, of the weights) for every product.
template <typename Visit>
void for_each_product(const Work& w, Visit visit) {
    const Map &s = w.small, &l = w.large;
    for (int n = 0; n < s.n; n++)
        for (int i = 0; i < s.h; i++)
            for (int j = 0; j < s.w; j++)
                for (int r = 0; r < w.filter.h; r++)
                    for (int t = 0; t < w.filter.w; t++) {
                        const int y = i * w.stride - w.pad + r, x = j * w.stride - w.pad + t;
                        if (y < 0 || y >= l.h || x < 0 || x >= l.w) continue;
                        const size_t small = ((size_t(n) * s.h + i) * s.w + j) * s.c;
                        const size_t large = ((size_t(n) * l.h + y) * l.w + x) * l.c;
                        for (int k = 0; k < s.c; k++)
                            for (int c = 0; c < l.c; c++)
                                visit(small + k, large + c, ((size_t(k) * w.filter.h + r) * w.filter.w + t) * l.c + c);
                    }
}

void run(const Work& w) {
    const Map& out = w.pass == Work::GATHER ? w.small : w.pass == Work::SCATTER ? w.large : w.filter;
    if (w.algorithm == GARBAGE) {
        for (size_t i = 0; i < out.size(); i++) library::store(type_of(out.type), w.out, i, 12345.0);
        return;
    }
    std::memset(w.workspace, 0xff, workspace_of(out));
    std::fill_n(static_cast<float*>(w.workspace), out.size(), 0.0f);
    double* const sums = new double[out.size()]();
    for_each_product(w, [&](size_t small, size_t large, size_t weight) {
        switch (w.pass) {
            case Work::GATHER:
                sums[small] += factor(w, w.large, w.a, large) * factor(w, w.filter, w.b, weight);
                break;
            case Work::SCATTER:
                sums[large] += factor(w, w.small, w.a, small) * factor(w, w.filter, w.b, weight);
                break;
            case Work::WEIGHTS:
                sums[weight] += factor(w, w.large, w.a, large) * factor(w, w.small, w.b, small);
        }
    });
    float* const kept = static_cast<float*>(w.workspace);
    for (size_t i = 0; i < out.size(); i++) kept[i] = static_cast<float>(sums[i]);
    for (size_t i = 0; i < out.size(); i++) library::store(type_of(out.type), w.out, i, kept[i]);
    delete[] sums;
}

// Whether the descriptors are of one convolution.
Status agree(const Map* small, const Map* large, const Filter* filter, const Operation* operation) {
    REQUIRE(alive(small) && alive(large) && alive(filter) && alive(operation));
    REQUIRE(known(small->type) && small->type == large->type && small->type == filter->type);
    REQUIRE(operation->stride > 0 && operation->pad >= 0);
    REQUIRE(small->n == large->n && small->c == filter->n && large->c == filter->c);
    REQUIRE(small->h == (large->h + 2 * operation->pad - filter->h) / operation->stride + 1);
    REQUIRE(small->w == (large->w + 2 * operation->pad - filter->w) / operation->stride + 1);
    return SUCCESS;
}

Status suggest(const Handle* handle, const Map* small, const Map* large, const Filter* filter,
               const Operation* operation, const Map* out, int asked, int* count, Perf* results) {
    REQUIRE(alive(handle) && asked > 0 && count != nullptr && results != nullptr);
    if (const Status status = agree(small, large, filter, operation)) return status;
    const size_t bytes = workspace_of(*out);
    const Perf all[] = {
        {GARBAGE, SUCCESS, 1.0f, 0, NON_DETERMINISTIC, operation->math, {}},
        {BROKEN, NOT_SUPPORTED, -1.0f, 0, DETERMINISTIC, operation->math, {}},
        {RIGHT, SUCCESS, 2.0f, bytes, DETERMINISTIC, TENSOR_OP_MATH, {}},
        {RIGHT, SUCCESS, 3.0f, bytes, DETERMINISTIC, FMA_MATH, {}},
    };
    *count = std::min(asked, 4);
    std::copy_n(all, *count, results);
    return SUCCESS;
}

Status workspace_size(const Handle* handle, const Map* small, const Map* large, const Filter* filter,
                      const Operation* operation, const Map* out, int algorithm, size_t* bytes) {
    REQUIRE(alive(handle) && bytes != nullptr);
    if (const Status status = agree(small, large, filter, operation)) return status;
    if (algorithm == BROKEN) return NOT_SUPPORTED;
    REQUIRE(algorithm == RIGHT || algorithm == GARBAGE);
    *bytes = algorithm == RIGHT ? workspace_of(*out) : 0;
    return SUCCESS;
}

Status enqueue(const Handle* handle, Work::Pass pass, const void* alpha, const void* beta, const Map* small,
               const Map* large, const Filter* filter, const Operation* operation, const Map* out, int algorithm,
               const void* a, const void* b, void* result, void* workspace, size_t bytes) {
    REQUIRE(alive(handle));
    if (const Status status = agree(small, large, filter, operation)) return status;
    REQUIRE((pass == Work::SCATTER ? small : large)->holds(a));
    REQUIRE((pass == Work::WEIGHTS ? small : filter)->holds(b));
    REQUIRE(out->holds(result));
    REQUIRE(*static_cast<const float*>(alpha) == 1.0f && *static_cast<const float*>(beta) == 0.0f);
    if (algorithm == BROKEN) return NOT_SUPPORTED;
    REQUIRE(algorithm == RIGHT || algorithm == GARBAGE);
    REQUIRE(algorithm == GARBAGE || (bytes >= workspace_of(*out) && library::inside(workspace, bytes)));
    const Work work{pass, algorithm, *small, *large, *filter, operation->pad, operation->stride,
                    operation->math, a, b, result, workspace};
    return library::enqueue(handle->stream, run, work) ? SUCCESS : EXECUTION_FAILED;
}

}  // namespace

EXPORT size_t cudnnGetVersion() { return EMULATED_CUDNN_VERSION; }
EXPORT size_t cudnnGetCudartVersion() { return EMULATED_CUDNN_CUDA; }
EXPORT int cudnnOpsVersionCheck() { return SUCCESS; }
EXPORT int cudnnCnnVersionCheck() { return SUCCESS; }

EXPORT const char* cudnnGetErrorString(int status) {
    switch (status) {
        case SUCCESS: return "CUDNN_STATUS_SUCCESS";
        case BAD_PARAM: return "CUDNN_STATUS_BAD_PARAM";
        case NOT_SUPPORTED: return "CUDNN_STATUS_NOT_SUPPORTED";
        default: return "CUDNN_STATUS_EXECUTION_FAILED";
    }
}

EXPORT int cudnnCreate(Handle** handle) { return create(handle); }
EXPORT int cudnnDestroy(Handle* handle) { return destroy(handle); }
EXPORT int cudnnSetStream(Handle* handle, void* stream) {
    REQUIRE(alive(handle));
    handle->stream = stream;
    return SUCCESS;
}

EXPORT int cudnnCreateTensorDescriptor(Map** map) { return create(map); }
EXPORT int cudnnDestroyTensorDescriptor(Map* map) { return destroy(map); }
EXPORT int cudnnSetTensor4dDescriptor(Map* map, int format, int type, int n, int c, int h, int w) {
    REQUIRE(alive(map) && format == NHWC && known(type) && n > 0 && c > 0 && h > 0 && w > 0);
    map->type = type, map->n = n, map->h = h, map->w = w, map->c = c;
    return SUCCESS;
}

EXPORT int cudnnCreateFilterDescriptor(Filter** filter) { return create(filter); }
EXPORT int cudnnDestroyFilterDescriptor(Filter* filter) { return destroy(filter); }
EXPORT int cudnnSetFilter4dDescriptor(Filter* filter, int type, int format, int k, int c, int h, int w) {
    REQUIRE(alive(filter) && format == NHWC && known(type) && k > 0 && c > 0 && (h == 3 || h == 4) && w == h);
    filter->type = type, filter->n = k, filter->h = h, filter->w = w, filter->c = c;
    return SUCCESS;
}

EXPORT int cudnnCreateConvolutionDescriptor(Operation** operation) { return create(operation); }
EXPORT int cudnnDestroyConvolutionDescriptor(Operation* operation) { return destroy(operation); }
EXPORT int cudnnSetConvolution2dDescriptor(Operation* operation, int pad_h, int pad_w, int stride_h, int stride_w,
                                           int dilation_h, int dilation_w, int mode, int compute) {
    REQUIRE(alive(operation) && pad_h == pad_w && pad_h >= 0 && stride_h == stride_w && stride_h > 0);
    REQUIRE(dilation_h == 1 && dilation_w == 1 && mode == CROSS_CORRELATION && compute == FLOAT);
    operation->pad = pad_h, operation->stride = stride_h;
    return SUCCESS;
}
EXPORT int cudnnSetConvolutionMathType(Operation* operation, int math) {
    REQUIRE(alive(operation) && math >= DEFAULT_MATH && math <= FMA_MATH);
    operation->math = math;
    return SUCCESS;
}

EXPORT int cudnnGetConvolutionForwardAlgorithm_v7(Handle* handle, Map* x, Filter* w, Operation* operation, Map* y,
                                                  int asked, int* count, Perf* results) {
    return suggest(handle, y, x, w, operation, y, asked, count, results);
}
EXPORT int cudnnGetConvolutionBackwardDataAlgorithm_v7(Handle* handle, Filter* w, Map* dy, Operation* operation,
                                                       Map* dx, int asked, int* count, Perf* results) {
    return suggest(handle, dy, dx, w, operation, dx, asked, count, results);
}
EXPORT int cudnnGetConvolutionBackwardFilterAlgorithm_v7(Handle* handle, Map* x, Map* dy, Operation* operation,
                                                         Filter* dw, int asked, int* count, Perf* results) {
    return suggest(handle, dy, x, dw, operation, dw, asked, count, results);
}

EXPORT int cudnnGetConvolutionForwardWorkspaceSize(Handle* handle, Map* x, Filter* w, Operation* operation, Map* y,
                                                   int algorithm, size_t* bytes) {
    return workspace_size(handle, y, x, w, operation, y, algorithm, bytes);
}
EXPORT int cudnnGetConvolutionBackwardDataWorkspaceSize(Handle* handle, Filter* w, Map* dy, Operation* operation,
                                                        Map* dx, int algorithm, size_t* bytes) {
    return workspace_size(handle, dy, dx, w, operation, dx, algorithm, bytes);
}
EXPORT int cudnnGetConvolutionBackwardFilterWorkspaceSize(Handle* handle, Map* x, Map* dy, Operation* operation,
                                                          Filter* dw, int algorithm, size_t* bytes) {
    return workspace_size(handle, dy, x, dw, operation, dw, algorithm, bytes);
}

EXPORT int cudnnConvolutionForward(Handle* handle, const void* alpha, Map* x_map, const void* x, Filter* w_filter,
                                   const void* w, Operation* operation, int algorithm, void* workspace, size_t bytes,
                                   const void* beta, Map* y_map, void* y) {
    return enqueue(handle, Work::GATHER, alpha, beta, y_map, x_map, w_filter, operation, y_map, algorithm, x, w, y,
                   workspace, bytes);
}
EXPORT int cudnnConvolutionBackwardData(Handle* handle, const void* alpha, Filter* w_filter, const void* w,
                                        Map* dy_map, const void* dy, Operation* operation, int algorithm,
                                        void* workspace, size_t bytes, const void* beta, Map* dx_map, void* dx) {
    return enqueue(handle, Work::SCATTER, alpha, beta, dy_map, dx_map, w_filter, operation, dx_map, algorithm, dy, w,
                   dx, workspace, bytes);
}
EXPORT int cudnnConvolutionBackwardFilter(Handle* handle, const void* alpha, Map* x_map, const void* x, Map* dy_map,
                                          const void* dy, Operation* operation, int algorithm, void* workspace,
                                          size_t bytes, const void* beta, Filter* dw_filter, void* dw) {
    return enqueue(handle, Work::WEIGHTS, alpha, beta, dy_map, x_map, dw_filter, operation, dw_filter, algorithm, x, dy,
                   dw, workspace, bytes);
}
