/* Loaded before all other libraries: calls that write (or read) below some folder can be counted, and one of them, or all
   from one on, can be made to fail. Nothing happens until `failing_arm`. Its counter is shared with forked processes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static struct { char below[PATH_MAX]; size_t length; long nth; int error, always, reads, log; } plan;
static long *calls; /* NULL until armed */

/* The nth call (from 1; 0: none) below a folder fails with `error`; if `always`, so do all after it. Counts the calls
   that read if `reads`, else those that write. Each is a line in the file `log`: its name and path. */
void failing_arm(const char *below, long nth, int error, int always, int reads, int log) {
  snprintf(plan.below, sizeof plan.below, "%s", below);
  plan.length = strlen(below);
  plan.nth = nth, plan.error = error, plan.always = always, plan.reads = reads, plan.log = log;
  calls = mmap(NULL, sizeof *calls, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
}

static int fails(const char *name, const char *path, int reads) {
  if (reads != plan.reads || strncmp(path, plan.below, plan.length) != 0) return 0;
  if (path[plan.length] != '/' && path[plan.length] != 0) return 0;
  long now = __atomic_add_fetch(calls, 1, __ATOMIC_SEQ_CST);
  char line[PATH_MAX + 64];
  int length = snprintf(line, sizeof line, "%s %s\n", name, path);
  syscall(SYS_write, plan.log, line, length);
  if (plan.nth == 0 || now < plan.nth || (now > plan.nth && !plan.always)) return 0;
  errno = plan.error;
  return 1;
}

static int handle_fails(const char *name, int fd, int reads) {
  if (!calls) return 0;
  char link[64], path[PATH_MAX];
  snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
  int before = errno;
  ssize_t length = readlink(link, path, sizeof path - 1);
  errno = before;
  if (length < 0) return 0;
  path[length] = 0;
  return fails(name, path, reads);
}

static int path_fails(const char *name, int folder, const char *path, int reads) {
  if (!calls || !path) return 0;
  if (path[0] == '/') return fails(name, path, reads);
  char link[64], whole[2 * PATH_MAX];
  snprintf(link, sizeof link, folder == AT_FDCWD ? "/proc/self/cwd" : "/proc/self/fd/%d", folder);
  int before = errno;
  ssize_t length = readlink(link, whole, PATH_MAX);
  errno = before;
  if (length < 0) return 0;
  snprintf(whole + length, PATH_MAX, "/%s", path);
  return fails(name, whole, reads);
}

static int open_fails(int folder, const char *path, int flags) {
  int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
  if (!writes && (flags & O_DIRECTORY)) return 0;
  return path_fails(writes ? "open" : "open-read", folder, path, !writes);
}

#define REAL(type, name, ...) \
  static type (*real)(__VA_ARGS__); \
  if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define MODE(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | __O_TMPFILE)) { \
    va_list rest; \
    va_start(rest, flags); \
    mode = va_arg(rest, mode_t); \
    va_end(rest); \
  }

#define OPEN(name) \
  int name(const char *path, int flags, ...) { \
    MODE(flags) \
    REAL(int, #name, const char *, int, ...); \
    return open_fails(AT_FDCWD, path, flags) ? -1 : real(path, flags, mode); \
  }
#define OPENAT(name) \
  int name(int folder, const char *path, int flags, ...) { \
    MODE(flags) \
    REAL(int, #name, int, const char *, int, ...); \
    return open_fails(folder, path, flags) ? -1 : real(folder, path, flags, mode); \
  }
#define CREAT(name) \
  int name(const char *path, mode_t mode) { \
    REAL(int, #name, const char *, mode_t); \
    return path_fails("open", AT_FDCWD, path, 0) ? -1 : real(path, mode); \
  }
#define FOPEN(name) \
  FILE *name(const char *path, const char *mode) { \
    REAL(FILE *, #name, const char *, const char *); \
    int reads = mode[0] == 'r' && !strchr(mode, '+'); \
    return path_fails(reads ? "open-read" : "open", AT_FDCWD, path, reads) ? NULL : real(path, mode); \
  }
OPEN(open) OPEN(open64) OPENAT(openat) OPENAT(openat64) CREAT(creat) CREAT(creat64) FOPEN(fopen) FOPEN(fopen64)

/* Calls on a handle: their name, whether they read, what they return and take. */
#define ON_HANDLE(name, as, reads, type, parameters, arguments, ...) \
  type name parameters { \
    REAL(type, #name, __VA_ARGS__); \
    return handle_fails(as, fd, reads) ? (type)-1 : real arguments; \
  }
ON_HANDLE(write, "write", 0, ssize_t, (int fd, const void *b, size_t n), (fd, b, n), int, const void *, size_t)
ON_HANDLE(pwrite, "write", 0, ssize_t, (int fd, const void *b, size_t n, off_t o), (fd, b, n, o), int, const void *,
          size_t, off_t)
ON_HANDLE(pwrite64, "write", 0, ssize_t, (int fd, const void *b, size_t n, off64_t o), (fd, b, n, o), int,
          const void *, size_t, off64_t)
ON_HANDLE(writev, "write", 0, ssize_t, (int fd, const struct iovec *v, int n), (fd, v, n), int, const struct iovec *,
          int)
ON_HANDLE(pwritev, "write", 0, ssize_t, (int fd, const struct iovec *v, int n, off_t o), (fd, v, n, o), int,
          const struct iovec *, int, off_t)
ON_HANDLE(sendfile, "write", 0, ssize_t, (int fd, int in, off_t *o, size_t n), (fd, in, o, n), int, int, off_t *,
          size_t)
ON_HANDLE(sendfile64, "write", 0, ssize_t, (int fd, int in, off64_t *o, size_t n), (fd, in, o, n), int, int, off64_t *,
          size_t)
ON_HANDLE(fallocate, "write", 0, int, (int fd, int m, off_t o, off_t n), (fd, m, o, n), int, int, off_t, off_t)
ON_HANDLE(fallocate64, "write", 0, int, (int fd, int m, off64_t o, off64_t n), (fd, m, o, n), int, int, off64_t,
          off64_t)
ON_HANDLE(fsync, "fsync", 0, int, (int fd), (fd), int)
ON_HANDLE(fdatasync, "fsync", 0, int, (int fd), (fd), int)
ON_HANDLE(ftruncate, "truncate", 0, int, (int fd, off_t n), (fd, n), int, off_t)
ON_HANDLE(ftruncate64, "truncate", 0, int, (int fd, off64_t n), (fd, n), int, off64_t)
ON_HANDLE(read, "read", 1, ssize_t, (int fd, void *b, size_t n), (fd, b, n), int, void *, size_t)
ON_HANDLE(pread, "read", 1, ssize_t, (int fd, void *b, size_t n, off_t o), (fd, b, n, o), int, void *, size_t, off_t)
ON_HANDLE(pread64, "read", 1, ssize_t, (int fd, void *b, size_t n, off64_t o), (fd, b, n, o), int, void *, size_t,
          off64_t)

ssize_t copy_file_range(int in, off64_t *from, int fd, off64_t *to, size_t n, unsigned flags) {
  REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
  return handle_fails("write", fd, 0) ? -1 : real(in, from, fd, to, n, flags);
}

size_t fwrite(const void *b, size_t size, size_t n, FILE *file) {
  REAL(size_t, "fwrite", const void *, size_t, size_t, FILE *);
  return calls && handle_fails("write", fileno(file), 0) ? 0 : real(b, size, n, file);
}

/* Calls on a path, and on a path below an open folder. */
#define ON_PATH(name, as, parameters, arguments, path, ...) \
  int name parameters { \
    REAL(int, #name, __VA_ARGS__); \
    return path_fails(as, AT_FDCWD, path, 0) ? -1 : real arguments; \
  }
#define ON_PATH_AT(name, as, parameters, arguments, folder, path, ...) \
  int name parameters { \
    REAL(int, #name, __VA_ARGS__); \
    return path_fails(as, folder, path, 0) ? -1 : real arguments; \
  }
ON_PATH(truncate, "truncate", (const char *p, off_t n), (p, n), p, const char *, off_t)
ON_PATH(truncate64, "truncate", (const char *p, off64_t n), (p, n), p, const char *, off64_t)
ON_PATH(rename, "rename", (const char *a, const char *b), (a, b), b, const char *, const char *)
ON_PATH_AT(renameat, "rename", (int d, const char *a, int e, const char *b), (d, a, e, b), e, b, int, const char *, int,
           const char *)
ON_PATH_AT(renameat2, "rename", (int d, const char *a, int e, const char *b, unsigned f), (d, a, e, b, f), e, b, int,
           const char *, int, const char *, unsigned)
/* Of what is there already the system says so, whatever else is wrong. */
#define MKDIR(name, parameters, arguments, folder, path, ...) \
  int name parameters { \
    REAL(int, #name, __VA_ARGS__); \
    int before = errno, there = faccessat(folder, path, F_OK, 0) == 0; \
    errno = before; \
    return !there && path_fails("mkdir", folder, path, 0) ? -1 : real arguments; \
  }
MKDIR(mkdir, (const char *p, mode_t m), (p, m), AT_FDCWD, p, const char *, mode_t)
MKDIR(mkdirat, (int d, const char *p, mode_t m), (d, p, m), d, p, int, const char *, mode_t)
ON_PATH(link, "link", (const char *a, const char *b), (a, b), b, const char *, const char *)
ON_PATH_AT(linkat, "link", (int d, const char *a, int e, const char *b, int f), (d, a, e, b, f), e, b, int, const char *,
           int, const char *, int)
ON_PATH(symlink, "link", (const char *a, const char *b), (a, b), b, const char *, const char *)
ON_PATH_AT(symlinkat, "link", (const char *a, int e, const char *b), (a, e, b), e, b, const char *, int, const char *)
