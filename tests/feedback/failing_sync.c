/* Preloaded: fsync and fdatasync fail with EIO while the file named by FAIL_WHILE exists; each call is noted in NOTED. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

static int failing(int (*real)(int), int handle) {
    const char *flag = getenv("FAIL_WHILE"), *noted = getenv("NOTED");
    int fails = flag && access(flag, F_OK) == 0;
    int log = noted ? open(noted, O_WRONLY | O_CREAT | O_APPEND, 0600) : -1;
    if (log >= 0) {
        if (write(log, fails ? "F" : ".", 1) != 1) abort();
        close(log);
    }
    if (fails) {
        errno = EIO;
        return -1;
    }
    return real(handle);
}

int fsync(int handle) {
    return failing((int (*)(int))dlsym(RTLD_NEXT, "fsync"), handle);
}

int fdatasync(int handle) {
    return failing((int (*)(int))dlsym(RTLD_NEXT, "fdatasync"), handle);
}
