/* An LD_PRELOAD library. It counts the calls that change what is on disk below one folder. At the n-th it kills the process, or the
   disk is full from there on. Libraries in C++ and Rust write through the same calls of libc as Python does. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

enum { OFF, COUNT, KILL, FULL };
static int mode = OFF;
static long calls = 0, at = 0;
static char root[PATH_MAX] = "";

void faulty_disk(int new_mode, long call, const char *folder) {
    mode = new_mode, at = call, calls = 0;
    strncpy(root, folder, sizeof root - 1);
}
long faulty_disk_calls(void) { return calls; }

static int below(int dir, const char *path) { /* path NULL: dir itself */
    char full[2 * PATH_MAX] = "", link[64];
    if (mode == OFF) return 0;
    if (!path || path[0] != '/') {
        ssize_t n;
        if (dir == AT_FDCWD) return 0; /* the tests give absolute paths */
        snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
        n = readlink(link, full, PATH_MAX);
        full[n < 0 ? 0 : n] = 0;
    } else {
        strncpy(full, path, PATH_MAX);
    }
    size_t n = strlen(root);
    return strncmp(full, root, n) == 0 && (full[n] == 0 || full[n] == '/');
}

static int reached(void) { /* 0: go on; 1: this is the call */
    calls++;
    return (mode == KILL && calls == at) || (mode == FULL && calls >= at);
}
static void die(void) { kill(getpid(), SIGKILL); for (;;) pause(); }
static int full(void) { errno = ENOSPC; return -1; }

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

/* A write that is interrupted leaves the first half of its bytes. */
ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    if (below(fd, NULL) && reached()) {
        if (calls == at) real(fd, data, size / 2);
        if (mode == KILL) die();
        return full();
    }
    return real(fd, data, size);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    if (below(fd, NULL) && reached()) {
        if (calls == at) real(fd, parts, count / 2);
        if (mode == KILL) die();
        return full();
    }
    return real(fd, parts, count);
}
#define PWRITE(name, offset_t) \
ssize_t name(int fd, const void *data, size_t size, offset_t place) { \
    REAL(ssize_t, #name, int, const void *, size_t, offset_t); \
    if (below(fd, NULL) && reached()) { \
        if (calls == at) real(fd, data, size / 2, place); \
        if (mode == KILL) die(); \
        return full(); \
    } \
    return real(fd, data, size, place); \
}
PWRITE(pwrite, off_t)
PWRITE(pwrite64, off64_t)

/* Without room nothing can be made or made larger; names can still change and go. */
#define NEEDS_ROOM if (mode == KILL) die(); else return full();
#define NEEDS_NONE if (mode == KILL) die();

#define OPEN(name) \
int name(const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t bits = va_arg(rest, mode_t); va_end(rest); \
    REAL(int, #name, const char *, int, mode_t); \
    if ((flags & (O_CREAT | O_TRUNC)) && below(AT_FDCWD, path) && reached()) { NEEDS_ROOM } \
    return real(path, flags, bits); \
}
OPEN(open)
OPEN(open64)
#define OPENAT(name) \
int name(int dir, const char *path, int flags, ...) { \
    va_list rest; va_start(rest, flags); mode_t bits = va_arg(rest, mode_t); va_end(rest); \
    REAL(int, #name, int, const char *, int, mode_t); \
    if ((flags & (O_CREAT | O_TRUNC)) && below(dir, path) && reached()) { NEEDS_ROOM } \
    return real(dir, path, flags, bits); \
}
OPENAT(openat)
OPENAT(openat64)
#define FOPEN(name) \
FILE *name(const char *path, const char *how) { \
    REAL(FILE *, #name, const char *, const char *); \
    if (how[0] != 'r' && below(AT_FDCWD, path) && reached()) { if (mode == KILL) die(); errno = ENOSPC; return NULL; } \
    return real(path, how); \
}
FOPEN(fopen)
FOPEN(fopen64)

int mkdir(const char *path, mode_t bits) {
    REAL(int, "mkdir", const char *, mode_t);
    if (below(AT_FDCWD, path) && reached()) { NEEDS_ROOM }
    return real(path, bits);
}
int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    if (below(AT_FDCWD, from) && reached()) { NEEDS_NONE }
    return real(from, to);
}
int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    if (below(AT_FDCWD, path) && reached()) { NEEDS_NONE }
    return real(path);
}
int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    if (below(AT_FDCWD, path) && reached()) { NEEDS_NONE }
    return real(path);
}
int unlinkat(int dir, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    if (below(dir, path) && reached()) { NEEDS_NONE }
    return real(dir, path, flags);
}
int fsync(int fd) {
    REAL(int, "fsync", int);
    if (below(fd, NULL) && reached()) { NEEDS_NONE }
    return real(fd);
}
#define TRUNCATE(name, offset_t) \
int name(int fd, offset_t size) { \
    REAL(int, #name, int, offset_t); \
    if (below(fd, NULL) && reached()) { NEEDS_ROOM } \
    return real(fd, size); \
}
TRUNCATE(ftruncate, off_t)
TRUNCATE(ftruncate64, off64_t)
