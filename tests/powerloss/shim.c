/* Records what a process does to the files below one directory, in the order in which it happens.
 *
 * Loaded by LD_PRELOAD. Every call that changes a file or a name below $ODRADEK_TRACE_ROOT is written
 * to $ODRADEK_TRACE_LOG/<pid>.trace, with its data, before it is made; a sync twice, as it begins and
 * once it has returned. One lock orders the calls of all threads, so that what is recorded before a
 * sync's beginning was done before it. A killed process leaves at most one call of which nobody knows
 * whether it happened: the last one recorded, or the opening of a file that is not recorded yet.
 *
 * What cannot be followed (a shared writable mapping, a name relative to a descriptor) is recorded as
 * UNSUPPORTED, and whoever reads the trace refuses it. tests/powerloss/trace.py reads the records.
 *
 * $ODRADEK_TRACE_BOOT_ID, a file, stands in for the kernel's boot id: a power cut changes it.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum kind {
    OPEN = 1, CLOSE, WRITE, TRUNCATE, ALLOCATE, RENAME, UNLINK, MKDIR, LINK,
    SYNC_BEGIN, SYNC_END, RESULT, UNSUPPORTED,
};

struct __attribute__((packed)) record {
    uint32_t payload_bytes, kind;
    int32_t fd, flags;
    uint64_t a, b, time_ns;
};

#define FD_MAX 65536
#define PATH_BYTES 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned char traced[FD_MAX], appending[FD_MAX];
static int log_fd = -1;
static uint64_t syncs;

static int below_root(const char *path) {
    static const char *root;
    static size_t length;
    if (!root) {
        root = getenv("ODRADEK_TRACE_ROOT") ?: "";
        length = strlen(root);
    }
    return length && path && !strncmp(path, root, length) && (!path[length] || path[length] == '/');
}

static int is_traced(int fd) { return fd >= 0 && fd < FD_MAX && traced[fd]; }

static void must(int holds, const char *what) {
    if (holds) return;
    fprintf(stderr, "power loss tracer: %s: %s\n", what, strerror(errno));
    abort();
}

/* Call with the lock held. */
static void record(enum kind kind, int fd, int flags, uint64_t a, uint64_t b,
                   const struct iovec *data, int count) {
    int saved = errno;
    if (log_fd < 0) {
        char path[PATH_BYTES];
        snprintf(path, sizeof path, "%s/%d.trace", getenv("ODRADEK_TRACE_LOG"), getpid());
        log_fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
        must(log_fd >= 0, path);
    }
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    size_t bytes = 0;
    struct iovec parts[count + 1];
    for (int i = 0; i < count; i++) bytes += (parts[i + 1] = data[i]).iov_len;
    struct record head = {bytes, kind, fd, flags, a, b, now.tv_sec * 1000000000ull + now.tv_nsec};
    parts[0] = (struct iovec){&head, sizeof head};
    must(syscall(SYS_writev, log_fd, parts, count + 1) == (ssize_t)(sizeof head + bytes), "write");
    errno = saved;
}

static void record_path(enum kind kind, int fd, int flags, uint64_t a, const char *path) {
    struct iovec part = {(void *)path, strlen(path)};
    record(kind, fd, flags, a, 0, &part, 1);
}

static void record_two(enum kind kind, const char *from, const char *to) {
    struct iovec parts[] = {{(void *)from, strlen(from) + 1}, {(void *)to, strlen(to)}};
    record(kind, -1, 0, 0, 0, parts, 2);
}

/* The call did not do what was recorded before it. */
static void correct(int64_t result) { record(RESULT, -1, 0, (uint64_t)result, 0, NULL, 0); }

#define LOCKED(type, body) ({ pthread_mutex_lock(&lock); type result_ = (body); \
    pthread_mutex_unlock(&lock); result_; })

/* Opening and closing. */

static const char *substitute(const char *path) {
    const char *boot_id = getenv("ODRADEK_TRACE_BOOT_ID");
    return boot_id && path && !strcmp(path, "/proc/sys/kernel/random/boot_id") ? boot_id : path;
}

static int open_any(int directory, const char *path, int flags, mode_t mode) {
    path = substitute(path);
    if (!below_root(path)) {
        if (directory != AT_FDCWD && is_traced(directory) && path[0] != '/')
            LOCKED(int, (record_path(UNSUPPORTED, directory, 0, 0, "openat"), 0));
        return syscall(SYS_openat, directory, path, flags, mode);
    }
    pthread_mutex_lock(&lock);
    int fd = syscall(SYS_openat, directory, path, flags, mode);
    if (fd >= 0) {
        errno = 0;
        must(fd < FD_MAX, "too many descriptors");
        int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
        struct stat status;
        if (writes || (!syscall(SYS_fstat, fd, &status) && S_ISDIR(status.st_mode))) {
            record_path(OPEN, fd, flags, 0, path);
            appending[fd] = (flags & O_APPEND) != 0;
            traced[fd] = 1;
        }
    }
    pthread_mutex_unlock(&lock);
    return fd;
}

#define MODE(flags) ({ mode_t mode_ = 0; \
    if ((flags) & O_CREAT || ((flags) & O_TMPFILE) == O_TMPFILE) { \
        va_list rest; va_start(rest, flags); mode_ = va_arg(rest, mode_t); va_end(rest); } mode_; })

int open(const char *path, int flags, ...) { return open_any(AT_FDCWD, path, flags, MODE(flags)); }
int open64(const char *path, int flags, ...) { return open_any(AT_FDCWD, path, flags, MODE(flags)); }
int openat(int directory, const char *path, int flags, ...) {
    return open_any(directory, path, flags, MODE(flags));
}
int openat64(int directory, const char *path, int flags, ...) {
    return open_any(directory, path, flags, MODE(flags));
}
int __open_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return open_any(AT_FDCWD, path, flags, 0); }
int creat(const char *path, mode_t mode) {
    return open_any(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) { return creat(path, mode); }

int close(int fd) {
    if (!is_traced(fd)) return syscall(SYS_close, fd);
    pthread_mutex_lock(&lock);
    record(CLOSE, fd, 0, 0, 0, NULL, 0);
    traced[fd] = 0;
    int result = syscall(SYS_close, fd);
    pthread_mutex_unlock(&lock);
    return result;
}

/* The C library closes its streams' descriptors unseen. */
int fclose(FILE *stream) {
    static int (*real)(FILE *);
    if (!real) real = (int (*)(FILE *))dlsym(RTLD_NEXT, "fclose");
    int fd = fileno(stream);
    if (is_traced(fd)) LOCKED(int, (record(CLOSE, fd, 0, 0, 0, NULL, 0), traced[fd] = 0));
    return real(stream);
}

/* Contents. */

static ssize_t write_any(int fd, const struct iovec *parts, int count, off_t offset, int positioned) {
    size_t bytes = 0;
    for (int i = 0; i < count; i++) bytes += parts[i].iov_len;
    pthread_mutex_lock(&lock);
    struct stat status;
    if (appending[fd]) offset = syscall(SYS_fstat, fd, &status) ? -1 : status.st_size;
    else if (!positioned) offset = syscall(SYS_lseek, fd, 0, SEEK_CUR);
    must(offset >= 0, "where a write goes");
    record(WRITE, fd, 0, offset, bytes, parts, count);
    ssize_t result = positioned ? syscall(SYS_pwritev, fd, parts, count, offset, 0)
                                : syscall(SYS_writev, fd, parts, count);
    if (result != (ssize_t)bytes) correct(result);
    pthread_mutex_unlock(&lock);
    return result;
}

ssize_t write(int fd, const void *data, size_t bytes) {
    if (!is_traced(fd)) return syscall(SYS_write, fd, data, bytes);
    return write_any(fd, &(struct iovec){(void *)data, bytes}, 1, 0, 0);
}
ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (!is_traced(fd)) return syscall(SYS_writev, fd, parts, count);
    return write_any(fd, parts, count, 0, 0);
}
ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset) {
    if (!is_traced(fd)) return syscall(SYS_pwrite64, fd, data, bytes, offset);
    return write_any(fd, &(struct iovec){(void *)data, bytes}, 1, offset, 1);
}
ssize_t pwrite64(int fd, const void *data, size_t bytes, off_t offset) {
    return pwrite(fd, data, bytes, offset);
}
ssize_t pwritev(int fd, const struct iovec *parts, int count, off_t offset) {
    if (!is_traced(fd)) return syscall(SYS_pwritev, fd, parts, count, offset, 0);
    return write_any(fd, parts, count, offset, 1);
}
ssize_t pwritev64(int fd, const struct iovec *parts, int count, off_t offset) {
    return pwritev(fd, parts, count, offset);
}
ssize_t pwritev2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    if (!is_traced(fd)) return syscall(SYS_pwritev2, fd, parts, count, offset, 0, flags);
    return write_any(fd, parts, count, offset < 0 ? 0 : offset, offset >= 0); /* no sync by flag */
}
ssize_t pwritev64v2(int fd, const struct iovec *parts, int count, off_t offset, int flags) {
    return pwritev2(fd, parts, count, offset, flags);
}

int ftruncate(int fd, off_t size) {
    if (!is_traced(fd)) return syscall(SYS_ftruncate, fd, size);
    pthread_mutex_lock(&lock);
    record(TRUNCATE, fd, 0, size, 0, NULL, 0);
    int result = syscall(SYS_ftruncate, fd, size);
    if (result) correct(-1);
    pthread_mutex_unlock(&lock);
    return result;
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int fallocate(int fd, int mode, off_t offset, off_t bytes) {
    if (!is_traced(fd)) return syscall(SYS_fallocate, fd, mode, offset, bytes);
    pthread_mutex_lock(&lock);
    record(ALLOCATE, fd, mode, offset, bytes, NULL, 0);
    int result = syscall(SYS_fallocate, fd, mode, offset, bytes);
    if (result) correct(-1);
    pthread_mutex_unlock(&lock);
    return result;
}
int fallocate64(int fd, int mode, off_t offset, off_t bytes) {
    return fallocate(fd, mode, offset, bytes);
}
int posix_fallocate(int fd, off_t offset, off_t bytes) {
    return fallocate(fd, 0, offset, bytes) ? errno : 0;
}
int posix_fallocate64(int fd, off_t offset, off_t bytes) {
    return posix_fallocate(fd, offset, bytes);
}

static int sync_any(int fd, long number) {
    if (!is_traced(fd)) return syscall(number, fd);
    uint64_t turn = LOCKED(uint64_t, (record(SYNC_BEGIN, fd, 0, ++syncs, 0, NULL, 0), syncs));
    int result = syscall(number, fd);
    LOCKED(int, (record(SYNC_END, fd, result, turn, 0, NULL, 0), 0));
    return result;
}
int fsync(int fd) { return sync_any(fd, SYS_fsync); }
int fdatasync(int fd) { return sync_any(fd, SYS_fdatasync); }

/* Names. */

static int rename_any(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    if (!below_root(from) && !below_root(to))
        return syscall(SYS_renameat2, from_directory, from, to_directory, to, flags);
    pthread_mutex_lock(&lock);
    if (flags || !below_root(from) || !below_root(to)) record_path(UNSUPPORTED, -1, 0, 0, "rename");
    record_two(RENAME, from, to);
    int result = syscall(SYS_renameat2, from_directory, from, to_directory, to, flags);
    if (result) correct(-1);
    pthread_mutex_unlock(&lock);
    return result;
}
int rename(const char *from, const char *to) { return rename_any(AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    return rename_any(from_directory, from, to_directory, to, 0);
}
int renameat2(int from_directory, const char *from, int to_directory, const char *to, unsigned flags) {
    return rename_any(from_directory, from, to_directory, to, flags);
}

static int unlink_any(int directory, const char *path, int flags) {
    if (!below_root(path)) return syscall(SYS_unlinkat, directory, path, flags);
    pthread_mutex_lock(&lock);
    record_path(UNLINK, -1, flags, 0, path);
    int result = syscall(SYS_unlinkat, directory, path, flags);
    if (result) correct(-1);
    pthread_mutex_unlock(&lock);
    return result;
}
int unlink(const char *path) { return unlink_any(AT_FDCWD, path, 0); }
int unlinkat(int directory, const char *path, int flags) { return unlink_any(directory, path, flags); }
int rmdir(const char *path) { return unlink_any(AT_FDCWD, path, AT_REMOVEDIR); }
int remove(const char *path) {
    int result = unlink(path);
    return result && errno == EISDIR ? rmdir(path) : result;
}

static int mkdir_any(int directory, const char *path, mode_t mode) {
    if (!below_root(path)) return syscall(SYS_mkdirat, directory, path, mode);
    pthread_mutex_lock(&lock);
    record_path(MKDIR, -1, 0, 0, path);
    int result = syscall(SYS_mkdirat, directory, path, mode);
    if (result) correct(-1);
    pthread_mutex_unlock(&lock);
    return result;
}
int mkdir(const char *path, mode_t mode) { return mkdir_any(AT_FDCWD, path, mode); }
int mkdirat(int directory, const char *path, mode_t mode) { return mkdir_any(directory, path, mode); }

int link(const char *from, const char *to) {
    if (!below_root(from) && !below_root(to)) return syscall(SYS_link, from, to);
    pthread_mutex_lock(&lock);
    record_two(LINK, from, to);
    int result = syscall(SYS_link, from, to);
    if (result) correct(-1);
    pthread_mutex_unlock(&lock);
    return result;
}

/* What would go unseen. */

static void refuse(int fd, const char *what) {
    if (is_traced(fd)) LOCKED(int, (record_path(UNSUPPORTED, fd, 0, 0, what), 0));
}
void *mmap(void *where, size_t bytes, int protection, int flags, int fd, off_t offset) {
    if ((flags & MAP_SHARED) && (protection & PROT_WRITE)) refuse(fd, "mmap");
    return (void *)syscall(SYS_mmap, where, bytes, protection, flags, fd, offset);
}
void *mmap64(void *where, size_t bytes, int protection, int flags, int fd, off_t offset) {
    return mmap(where, bytes, protection, flags, fd, offset);
}
ssize_t copy_file_range(int from, off_t *from_at, int to, off_t *to_at, size_t bytes, unsigned flags) {
    refuse(to, "copy_file_range");
    return syscall(SYS_copy_file_range, from, from_at, to, to_at, bytes, flags);
}
ssize_t sendfile(int to, int from, off_t *at, size_t bytes) {
    refuse(to, "sendfile");
    return syscall(SYS_sendfile, to, from, at, bytes);
}
ssize_t sendfile64(int to, int from, off_t *at, size_t bytes) { return sendfile(to, from, at, bytes); }
int dup(int fd) {
    refuse(fd, "dup");
    return syscall(SYS_dup, fd);
}
int symlink(const char *target, const char *path) {
    if (below_root(path)) LOCKED(int, (record_path(UNSUPPORTED, -1, 0, 0, "symlink"), 0));
    return syscall(SYS_symlink, target, path);
}
