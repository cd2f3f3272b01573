/* A wall clock that a test sets while the process runs: preloaded, it adds the seconds that stand in
 * the file named by CHAOS_CLOCK to whatever tells the time of day. Absolute wall-clock deadlines are
 * handed to the kernel in its own time. The monotonic clock is not touched, as it is not when an
 * operator, or NTP, sets a real clock. Values below a billion seconds are no wall-clock times.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile int64_t *offset_s;

__attribute__((constructor)) static void open_clock(void) {
    const char *path = getenv("CHAOS_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *mapped = mmap(NULL, sizeof *offset_s, PROT_READ, MAP_SHARED, file, 0);
    if (mapped != MAP_FAILED) offset_s = mapped;
    close(file);
}

static int64_t ahead_s(void) { return offset_s ? *offset_s : 0; }

static void *next_symbol(void **known, const char *name, const char *version) {
    if (!*known && version) *known = dlvsym(RTLD_NEXT, name, version);
    if (!*known) *known = dlsym(RTLD_NEXT, name);
    return *known;
}

#define NEXT(name, version) \
    static void *known; \
    __typeof__(&name) next = (__typeof__(&name))next_symbol(&known, #name, version)

static const struct timespec *true_time(const struct timespec *at, struct timespec *room) {
    if (!at || at->tv_sec < 1000000000 || !ahead_s()) return at;
    *room = *at;
    room->tv_sec -= ahead_s();
    if (room->tv_sec < 0) room->tv_sec = 0;
    return room;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    NEXT(clock_gettime, NULL);
    int result = next(clock, now);
    if (!result && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) now->tv_sec += ahead_s();
    return result;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    NEXT(gettimeofday, NULL);
    int result = next(now, zone);
    if (!result) now->tv_sec += ahead_s();
    return result;
}

time_t time(time_t *out) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (out) *out = now.tv_sec;
    return now.tv_sec;
}

int pthread_cond_timedwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           const struct timespec *restrict until) {
    NEXT(pthread_cond_timedwait, "GLIBC_2.3.2");
    struct timespec room;
    return next(condition, mutex, true_time(until, &room));
}

int pthread_cond_clockwait(pthread_cond_t *restrict condition, pthread_mutex_t *restrict mutex,
                           clockid_t clock, const struct timespec *restrict until) {
    NEXT(pthread_cond_clockwait, NULL);
    struct timespec room;
    return next(condition, mutex, clock, clock == CLOCK_REALTIME ? true_time(until, &room) : until);
}

int pthread_mutex_timedlock(pthread_mutex_t *restrict mutex, const struct timespec *restrict until) {
    NEXT(pthread_mutex_timedlock, NULL);
    struct timespec room;
    return next(mutex, true_time(until, &room));
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    NEXT(sem_timedwait, NULL);
    struct timespec room;
    return next(semaphore, true_time(until, &room));
}

int sem_clockwait(sem_t *restrict semaphore, clockid_t clock, const struct timespec *restrict until) {
    NEXT(sem_clockwait, NULL);
    struct timespec room;
    return next(semaphore, clock, clock == CLOCK_REALTIME ? true_time(until, &room) : until);
}

long syscall(long number, ...) {
    long a[6];
    va_list arguments;
    va_start(arguments, number);
    for (int index = 0; index < 6; index++) a[index] = va_arg(arguments, long);
    va_end(arguments);
    NEXT(syscall, NULL);
    struct timespec room;
    if (number == SYS_futex && (a[1] & FUTEX_CLOCK_REALTIME))
        a[3] = (long)true_time((const struct timespec *)a[3], &room);
    if (number == SYS_clock_gettime) return clock_gettime((clockid_t)a[0], (struct timespec *)a[1]);
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
