/* Faults on the way to the disk: counts what a process does to files below one folder, and lets the
   n-th of these operations fail or kills the process there. Load it with LD_PRELOAD, and arm it
   with fault_arm. */
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

enum { COUNT = 0, BEFORE = 1, HALF = 2, AFTER = 3, FAIL = 4, FULL = 5 };
static char folder[PATH_MAX];
static long at = -1, count = 0;
static int mode = COUNT, error_number = 0;

void fault_arm(const char *below, long number, int what, int error) {
    strncpy(folder, below, sizeof folder - 1);
    at = number; mode = what; error_number = error; count = 0;
}
long fault_count(void) { return count; }

static int below_path(int dir, const char *path) {
    if (!folder[0] || !path) return 0;
    if (path[0] == '/') return strncmp(path, folder, strlen(folder)) == 0;
    char link[64], base[PATH_MAX];
    if (dir == AT_FDCWD)
        return getcwd(base, sizeof base) && strncmp(base, folder, strlen(folder)) == 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", dir);
    ssize_t n = readlink(link, base, sizeof base - 1);
    if (n < 0) return 0;
    base[n] = 0;
    return strncmp(base, folder, strlen(folder)) == 0;
}
static int below_fd(int fd) {
    char link[64], base[PATH_MAX];
    if (!folder[0]) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, base, sizeof base - 1);
    if (n < 0) return 0;
    base[n] = 0;
    return strncmp(base, folder, strlen(folder)) == 0;
}
/* 0: go on; 1: fail; 2: half and die; 3: go on and die */
static int turn(int grows) {
    long mine = count++;
    if (mode == FULL) return mine >= at && grows ? 1 : 0;
    if (mine != at) return 0;
    if (mode == BEFORE) kill(getpid(), SIGKILL);
    if (mode == HALF) return 2;
    if (mode == AFTER) return 3;
    return mode == FAIL ? 1 : 0;
}
static void die(void) { kill(getpid(), SIGKILL); pause(); }
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define WRAP(name, watched, grows, call)                         \
    if (!(watched)) return REAL(name) call;                      \
    int now = turn(grows);                                       \
    if (now == 1) { errno = error_number; return -1; }           \
    if (now == 2) die();                                         \
    __typeof__(REAL(name) call) found = REAL(name) call;         \
    if (now == 3) die();                                         \
    return found;

static int writes(int flags) { return (flags & (O_CREAT | O_WRONLY | O_RDWR | O_TRUNC)) != 0; }
#define OPEN(name)                                                                               \
    int name(const char *path, int flags, ...) {                                                 \
        va_list rest; va_start(rest, flags); mode_t m = va_arg(rest, int); va_end(rest);         \
        WRAP(name, writes(flags) && below_path(AT_FDCWD, path), 1, (path, flags, m)) }
#define OPENAT(name)                                                                             \
    int name(int dir, const char *path, int flags, ...) {                                        \
        va_list rest; va_start(rest, flags); mode_t m = va_arg(rest, int); va_end(rest);         \
        WRAP(name, writes(flags) && below_path(dir, path), 1, (dir, path, flags, m)) }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64)

ssize_t write(int fd, const void *data, size_t size) {
    if (!below_fd(fd)) return REAL(write)(fd, data, size);
    int now = turn(1);
    if (now == 1) { errno = error_number; return -1; }
    if (now == 2) { REAL(write)(fd, data, size / 2); die(); }
    ssize_t found = REAL(write)(fd, data, size);
    if (now == 3) die();
    return found;
}
int fsync(int fd) { WRAP(fsync, below_fd(fd), 1, (fd)) }
int rename(const char *one, const char *other) {
    WRAP(rename, below_path(AT_FDCWD, other), 1, (one, other))
}
int renameat(int a, const char *one, int b, const char *other) {
    WRAP(renameat, below_path(b, other), 1, (a, one, b, other))
}
int mkdir(const char *path, mode_t m) { WRAP(mkdir, below_path(AT_FDCWD, path), 1, (path, m)) }
int mkdirat(int dir, const char *path, mode_t m) {
    WRAP(mkdirat, below_path(dir, path), 1, (dir, path, m))
}
int unlink(const char *path) { WRAP(unlink, below_path(AT_FDCWD, path), 0, (path)) }
int unlinkat(int dir, const char *path, int flags) {
    WRAP(unlinkat, below_path(dir, path), 0, (dir, path, flags))
}
int rmdir(const char *path) { WRAP(rmdir, below_path(AT_FDCWD, path), 0, (path)) }
int truncate(const char *path, off_t size) {
    WRAP(truncate, below_path(AT_FDCWD, path), 0, (path, size))
}
int truncate64(const char *path, off64_t size) {
    WRAP(truncate64, below_path(AT_FDCWD, path), 0, (path, size))
}
int ftruncate(int fd, off_t size) { WRAP(ftruncate, below_fd(fd), 0, (fd, size)) }
int ftruncate64(int fd, off64_t size) { WRAP(ftruncate64, below_fd(fd), 0, (fd, size)) }
