/* Makes system calls fail, for scripts/torture: LD_PRELOAD this, and say in FAULTS which, as NAME:ERRNO:NTH or
 * NAME:ERRNO:NTH+ separated by commas. The NTH call of that name fails with ERRNO, with + all from there on.
 * Calls on the standard streams are left alone. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static int due(const char *name, atomic_long *calls) {
    const char *rule = getenv("FAULTS");
    if (!rule) return 0;
    long call = atomic_fetch_add(calls, 1) + 1;
    size_t length = strlen(name);
    for (; rule && *rule; rule = strchr(rule, ',') ? strchr(rule, ',') + 1 : NULL) {
        if (strncmp(rule, name, length) || rule[length] != ':') continue;
        int code = 0;
        long nth = 0;
        char more = 0;
        if (sscanf(rule + length + 1, "%d:%ld%c", &code, &nth, &more) < 2) continue;
        if (call == nth || (more == '+' && call > nth)) return code;
    }
    return 0;
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FAIL(name, result)                                                                                             \
    static atomic_long calls;                                                                                          \
    int code = due(name, &calls);                                                                                      \
    if (code) {                                                                                                        \
        errno = code;                                                                                                  \
        return result;                                                                                                 \
    }

ssize_t write(int fd, const void *bytes, size_t length) {
    if (fd > 2) {
        FAIL("write", -1)
    }
    return REAL(write)(fd, bytes, length);
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at) {
    FAIL("write", -1)
    return REAL(pwrite64)(fd, bytes, length, at);
}
int fsync(int fd) {
    FAIL("fsync", -1)
    return REAL(fsync)(fd);
}
int ftruncate64(int fd, off64_t length) {
    FAIL("ftruncate", -1)
    return REAL(ftruncate64)(fd, length);
}
int rename(const char *from, const char *to) {
    FAIL("rename", -1)
    return REAL(rename)(from, to);
}
int mkdir(const char *path, mode_t mode) {
    FAIL("mkdir", -1)
    return REAL(mkdir)(path, mode);
}
int symlink(const char *to, const char *path) {
    FAIL("symlink", -1)
    return REAL(symlink)(to, path);
}
int unlink(const char *path) {
    FAIL("unlink", -1)
    return REAL(unlink)(path);
}
int fchmod(int fd, mode_t mode) {
    FAIL("chmod", -1)
    return REAL(fchmod)(fd, mode);
}
int chmod(const char *path, mode_t mode) {
    FAIL("chmod", -1)
    return REAL(chmod)(path, mode);
}
int flock(int fd, int operation) {
    FAIL("flock", -1)
    return ((int (*)(int, int))dlsym(RTLD_NEXT, "flock"))(fd, operation);
}
int open64(const char *path, int flags, ...) {
    va_list rest;
    va_start(rest, flags);
    mode_t mode = va_arg(rest, mode_t);
    va_end(rest);
    /* What a program is loaded from is not what is tortured. */
    if (flags & (O_WRONLY | O_RDWR | O_CREAT)) {
        FAIL("open", -1)
    }
    return REAL(open64)(path, flags, mode);
}
int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*run)(void *), void *argument) {
    static atomic_long calls;
    int code = due("thread", &calls);
    if (code) return code;
    return REAL(pthread_create)(thread, attributes, run, argument);
}
