/* Makes locks fail as on a network file system without them, with the error number in NOLOCKS_ERRNO. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>

static int refuse(void) {
  errno = atoi(getenv("NOLOCKS_ERRNO"));
  return -1;
}

int flock(int fd, int operation) { return refuse(); }

static int pass_on(const char *name, int fd, int command, void *argument) {
  switch (command) {
    case F_SETLK: case F_SETLKW: case F_GETLK: case F_OFD_SETLK: case F_OFD_SETLKW: case F_OFD_GETLK:
      return refuse();
  }
  int (*real)(int, int, ...) = (int (*)(int, int, ...))dlsym(RTLD_NEXT, name);
  return real(fd, command, argument);
}

#define FCNTL(name)                                 \
  int name(int fd, int command, ...) {              \
    va_list rest;                                   \
    va_start(rest, command);                        \
    void *argument = va_arg(rest, void *);          \
    va_end(rest);                                   \
    return pass_on(#name, fd, command, argument);   \
  }

FCNTL(fcntl)
FCNTL(fcntl64)
