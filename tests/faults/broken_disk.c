/* A disk that fails on request, for test_a14_disk_full.py: loaded before libc (LD_PRELOAD).
 *
 * While the file named by BROKEN_DISK exists, it holds: percent of writes that fail with ENOSPC, percent of writes that
 * fail with EIO, percent of syncs that fail with EIO, and a part of the paths that this is for.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static int percent(void) {
    static __thread unsigned seed;
    if (!seed) seed = (unsigned)getpid() * 2654435761u ^ (unsigned)(size_t)&seed;
    return rand_r(&seed) % 100;
}

static int broken(int fd, int sync) {
    char link[64], path[4096], part[256];
    int full, eio, unsynced, before = errno, result = 0;
    const char *control = getenv("BROKEN_DISK");
    FILE *file = control ? fopen(control, "re") : NULL;
    if (file) {
        int found = fscanf(file, "%d %d %d %255s", &full, &eio, &unsynced, part);
        fclose(file);
        snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
        ssize_t length = found == 4 ? readlink(link, path, sizeof path - 1) : -1;
        if (length > 0) {
            path[length] = 0;
            if (strstr(path, part)) {
                if (sync) result = percent() < unsynced ? EIO : 0;
                else result = percent() < full ? ENOSPC : percent() < eio ? EIO : 0;
            }
        }
    }
    errno = result ? result : before;
    return result;
}

#define REAL(name, ...)                                            \
    static __typeof__(&name) real;                                 \
    if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name);  \
    return real(__VA_ARGS__)

int fsync(int fd) { if (broken(fd, 1)) return -1; REAL(fsync, fd); }
int fdatasync(int fd) { if (broken(fd, 1)) return -1; REAL(fdatasync, fd); }
ssize_t write(int fd, const void *data, size_t size) { if (broken(fd, 0)) return -1; REAL(write, fd, data, size); }
ssize_t pwrite(int fd, const void *data, size_t size, off_t at) {
    if (broken(fd, 0)) return -1;
    REAL(pwrite, fd, data, size, at);
}
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    if (broken(fd, 0)) return -1;
    REAL(pwrite64, fd, data, size, at);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (broken(fd, 0)) return -1;
    REAL(writev, fd, parts, count);
}
