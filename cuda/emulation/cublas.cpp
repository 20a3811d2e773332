// The emulated cuBLAS, for tests: matrix products, column-major, in loops (see library.h).
//
// Without the settings that a reproducible product in f32 needs it refuses: a workspace of the program's own, no
// atomics, and for halves no partial sums in the type of the matrices.

#include "library.h"

#ifndef EMULATED_CUBLAS_MAJOR
#define EMULATED_CUBLAS_MAJOR 13
#endif

namespace {

using library::Type;

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13 };
enum { R_32F = 0, R_16F = 2, R_16BF = 14 };
enum { OP_N = 0, OP_T = 1 };
enum { COMPUTE_32F = 68, COMPUTE_32F_FAST_TF32 = 77 };
enum { DISALLOW_REDUCED_PRECISION_REDUCTION = 16 };
enum { ATOMICS_NOT_ALLOWED = 0 };

struct Handle {
    static constexpr unsigned MAGIC = 0xcb000001;
    unsigned magic = MAGIC;
    void* stream = nullptr;
    void* workspace = nullptr;
    size_t bytes = 0;
    // Neither is cuBLAS's default, so that leaving out a call shows.
    int math = 0, atomics = 1;
};

#define REQUIRE(condition)                                                      \
    do {                                                                        \
        if (!(condition)) {                                                     \
            library::complain("cuBLAS", "%s: not so: %s", __func__, #condition); \
            return INVALID_VALUE;                                               \
        }                                                                       \
    } while (false)

bool alive(const Handle* handle) { return handle != nullptr && handle->magic == Handle::MAGIC; }
bool known(int type) { return type == R_32F || type == R_16F || type == R_16BF; }
Type type_of(int type) { return type == R_32F ? Type::F32 : type == R_16F ? Type::F16 : Type::BF16; }

// c [m, n] = op(a) [m, k] · op(b) [k, n], element (i, j) of a matrix at i + j·ld.
struct Work {
    int op_a, op_b, m, n, k;
    const void* a;
    int type, lda;
    const void* b;
    int ldb;
    void* c;
    int type_c, ldc;
    bool tf32;
    void* workspace;
    size_t bytes;
};

void run(const Work& w) {
    // It is the library's to overwrite.
    std::memset(w.workspace, 0xff, w.bytes);
    const auto element = [&](const void* at, int op, int ld, int i, int j) {
        const size_t place = op == OP_N ? i + size_t(j) * ld : j + size_t(i) * ld;
        const double value = library::load(type_of(w.type), at, place);
        return w.tf32 ? library::tf32(value) : value;
    };
    for (int j = 0; j < w.n; j++)
        for (int i = 0; i < w.m; i++) {
            double sum = 0;
            for (int l = 0; l < w.k; l++) sum += element(w.a, w.op_a, w.lda, i, l) * element(w.b, w.op_b, w.ldb, l, j);
            library::store(type_of(w.type_c), w.c, i + size_t(j) * w.ldc, sum);
        }
}

}  // namespace

EXPORT int cublasGetProperty(int part, int* value) {
    REQUIRE(part >= 0 && part <= 2);
    *value = part == 0 ? EMULATED_CUBLAS_MAJOR : part;
    return SUCCESS;
}

EXPORT const char* cublasGetStatusString(int status) {
    switch (status) {
        case SUCCESS: return "CUBLAS_STATUS_SUCCESS";
        case NOT_INITIALIZED: return "CUBLAS_STATUS_NOT_INITIALIZED";
        case INVALID_VALUE: return "CUBLAS_STATUS_INVALID_VALUE";
        default: return "CUBLAS_STATUS_EXECUTION_FAILED";
    }
}

EXPORT int cublasCreate_v2(Handle** handle) {
    *handle = new Handle;
    return SUCCESS;
}
EXPORT int cublasDestroy_v2(Handle* handle) {
    REQUIRE(alive(handle));
    handle->magic = 0;
    delete handle;
    return SUCCESS;
}
EXPORT int cublasSetStream_v2(Handle* handle, void* stream) {
    REQUIRE(alive(handle));
    handle->stream = stream;
    // As cuBLAS does.
    handle->workspace = nullptr;
    handle->bytes = 0;
    return SUCCESS;
}
EXPORT int cublasSetWorkspace_v2(Handle* handle, void* workspace, size_t bytes) {
    REQUIRE(alive(handle) && library::inside(workspace, bytes) && reinterpret_cast<uintptr_t>(workspace) % 256 == 0);
    handle->workspace = workspace;
    handle->bytes = bytes;
    return SUCCESS;
}
EXPORT int cublasSetMathMode(Handle* handle, int math) {
    REQUIRE(alive(handle));
    handle->math = math;
    return SUCCESS;
}
EXPORT int cublasSetAtomicsMode(Handle* handle, int atomics) {
    REQUIRE(alive(handle));
    handle->atomics = atomics;
    return SUCCESS;
}

EXPORT int cublasGemmEx(Handle* handle, int op_a, int op_b, int m, int n, int k, const void* alpha, const void* a,
                        int type_a, int lda, const void* b, int type_b, int ldb, const void* beta, void* c, int type_c,
                        int ldc, int compute, int algorithm) {
    REQUIRE(alive(handle) && handle->workspace != nullptr && handle->atomics == ATOMICS_NOT_ALLOWED);
    REQUIRE(handle->math == DISALLOW_REDUCED_PRECISION_REDUCTION);
    REQUIRE((op_a == OP_N || op_a == OP_T) && (op_b == OP_N || op_b == OP_T));
    REQUIRE(m > 0 && n > 0 && k > 0);
    REQUIRE(lda >= (op_a == OP_N ? m : k) && ldb >= (op_b == OP_N ? k : n) && ldc >= m);
    REQUIRE(known(type_a) && type_a == type_b && (type_c == type_a || type_c == R_32F));
    REQUIRE(compute == COMPUTE_32F || (compute == COMPUTE_32F_FAST_TF32 && type_a == R_32F));
    REQUIRE(algorithm == -1);
    REQUIRE(*static_cast<const float*>(alpha) == 1.0f && *static_cast<const float*>(beta) == 0.0f);
    const auto holds = [](const void* at, int type, int ld, int rows, int columns) {
        return library::inside(at, (size_t(ld) * (columns - 1) + rows) * library::size_of(type_of(type)));
    };
    REQUIRE(op_a == OP_N ? holds(a, type_a, lda, m, k) : holds(a, type_a, lda, k, m));
    REQUIRE(op_b == OP_N ? holds(b, type_b, ldb, k, n) : holds(b, type_b, ldb, n, k));
    REQUIRE(holds(c, type_c, ldc, m, n));
    const Work work{op_a, op_b, m, n, k, a, type_a, lda, b, ldb, c, type_c, ldc,
                    compute == COMPUTE_32F_FAST_TF32, handle->workspace, handle->bytes};
    return library::enqueue(handle->stream, run, work) ? SUCCESS : EXECUTION_FAILED;
}
