// A program that tries one thing, named by its first argument, and prints what happened.
// Where libc would hide the errno of WASI, the call is made directly.
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>
#include <wasi/api.h>

static int number(const char *text) { return atoi(text); }

// -- standard streams

static int echo(void) {
    static char buffer[65536];
    for (;;) {
        ssize_t got = read(0, buffer, sizeof buffer);
        if (got <= 0) return got < 0;
        for (ssize_t sent = 0; sent < got;) {
            ssize_t n = write(1, buffer + sent, got - sent);
            if (n < 0) return 2;
            sent += n;
        }
    }
}

static int environment(int argc, char **argv) {
    extern char **environ;
    for (int i = 0; i < argc; i++) printf("arg %s\n", argv[i]);
    for (char **e = environ; e && *e; e++) printf("env %s\n", *e);
    return 0;
}

static int describe(int fd) {
    __wasi_fdstat_t stat;
    __wasi_filestat_t file;
    __wasi_prestat_t pre;
    __wasi_filesize_t at;
    int e = __wasi_fd_fdstat_get(fd, &stat);
    printf("fdstat %d", e);
    if (!e) printf(" type %d flags %d", stat.fs_filetype, stat.fs_flags);
    e = __wasi_fd_filestat_get(fd, &file);
    printf("\nfilestat %d", e);
    if (!e) printf(" type %d size %llu", file.filetype, (unsigned long long)file.size);
    e = __wasi_fd_prestat_get(fd, &pre);
    printf("\nprestat %d", e);
    if (!e) printf(" tag %d", pre.tag);
    printf("\nseek %d tell %d advise %d sync %d\n", __wasi_fd_seek(fd, 0, 0, &at), __wasi_fd_tell(fd, &at),
           __wasi_fd_advise(fd, 0, 0, 0), __wasi_fd_sync(fd));
    return 0;
}

static int null_device(int fd) {
    char c;
    printf("%zd %zd\n", read(fd, &c, 1), write(fd, "abc", 3));
    return 0;
}

// -- lines over a stream: three times a line back to its sender

static int echo_lines(int fd, int lines, int waits) {
    char line[256];
    size_t length = 0;
    while (lines > 0) {
        ssize_t got = read(fd, line + length, 1);
        if (got < 0 && errno == EAGAIN && waits) {
            struct pollfd p = {.fd = fd, .events = POLLIN};
            poll(&p, 1, -1);
            continue;
        }
        if (got <= 0) return 10 + (got < 0 ? errno : 0);
        if (line[length++] != '\n') continue;
        for (size_t sent = 0; sent < length;) {
            ssize_t n = write(fd, line + sent, length - sent);
            if (n < 0 && errno == EAGAIN && waits) {
                struct pollfd p = {.fd = fd, .events = POLLOUT};
                poll(&p, 1, -1);
                continue;
            }
            if (n < 0) return 11;
            sent += n;
        }
        length = 0;
        lines--;
    }
    return 0;
}

static void set_nonblocking(int fd, int on) { fcntl(fd, F_SETFL, on ? O_NONBLOCK : 0); }

static int connected(int fd) {
    int e = echo_lines(fd, 1, 0);
    set_nonblocking(fd, 0);
    if (!e) e = echo_lines(fd, 1, 0);
    set_nonblocking(fd, 1);
    if (!e) e = echo_lines(fd, 1, 1);
    return e;
}

static int accept_waiting(int fd) {
    for (;;) {
        int s = accept(fd, 0, 0);
        if (s >= 0 || errno != EAGAIN) return s;
        struct pollfd p = {.fd = fd, .events = POLLIN};
        poll(&p, 1, -1);
    }
}

static int listening(int fd) {
    for (int i = 0; i < 3; i++) {
        set_nonblocking(fd, i == 2);
        int s = accept_waiting(fd);
        if (s < 0) return 20;
        int e = connected(s);
        if (e) return e;
        close(s);
    }
    return 0;
}

static int echo_stream(int fd) {  // until the other side ends
    static char buffer[65536];
    int s = accept_waiting(fd);
    set_nonblocking(s, 0);
    for (;;) {
        ssize_t got = read(s, buffer, sizeof buffer);
        if (got <= 0) return got < 0 ? errno : 0;
        for (ssize_t sent = 0; sent < got;) {
            ssize_t n = write(s, buffer + sent, got - sent);
            if (n < 0) return 2;
            sent += n;
        }
    }
}

// A server with one thread: whoever speaks is served, whoever is silent holds up nobody. Ends on "end\n".
static int server(int fd, int nonblocking) {
    static struct pollfd all[512];
    int count = 1;
    all[0] = (struct pollfd){.fd = fd, .events = POLLIN};
    for (;;) {
        if (poll(all, count, -1) < 0) return 30;
        if (all[0].revents & POLLIN && count < 512) {
            int s = accept(fd, 0, 0);
            if (s >= 0) {
                set_nonblocking(s, nonblocking);
                all[count++] = (struct pollfd){.fd = s, .events = POLLIN};
            } else if (errno != EAGAIN) return 31;
        }
        for (int i = 1; i < count; i++) {
            if (!all[i].revents) continue;
            char line[256];
            ssize_t got = read(all[i].fd, line, sizeof line);
            if (got < 0 && errno == EAGAIN) continue;
            if (got > 0) write(all[i].fd, line, got);
            if (got > 0 && !memcmp(line, "end\n", 4)) return 0;
            if (got <= 0) {
                close(all[i].fd);
                all[i--] = all[--count];
            }
        }
    }
}

// Sends `bytes` without waiting for anybody, then says how much was taken, and closes.
static int flood(int fd, int bytes, int nonblocking) {
    static char buffer[65536];
    int s = accept_waiting(fd);
    set_nonblocking(s, 0);
    read(s, buffer, 1);
    set_nonblocking(s, nonblocking);
    int taken = 0;
    while (taken < bytes) {
        for (int i = 0; i < (int)sizeof buffer; i++) buffer[i] = (char)((taken + i) % 251);
        size_t rest = bytes - taken < (int)sizeof buffer ? bytes - taken : sizeof buffer;
        ssize_t n = write(s, buffer, rest);
        if (n < 0 && errno == EAGAIN) {
            struct pollfd p = {.fd = s, .events = POLLOUT};
            poll(&p, 1, -1);
            continue;
        }
        if (n < 0) return 40;
        taken += n;
    }
    close(s);
    printf("%d\n", taken);
    return 0;
}

// Half-close: says goodbye first, then reads what the peer still has to say.
static int half_close(int fd) {
    char buffer[256];
    int s = accept_waiting(fd);
    set_nonblocking(s, 0);
    ssize_t got = read(s, buffer, sizeof buffer);
    write(s, buffer, got);
    printf("shutdown %d\n", shutdown(s, SHUT_WR));
    printf("write %d\n", write(s, "x", 1) < 0 ? errno : 0);
    size_t total = 0;
    while ((got = read(s, buffer, sizeof buffer)) > 0) total += got;
    printf("read %zu then %zd\n", total, got);
    return 0;
}

static int receive(int fd) {
    char buffer[8] = {0};
    int s = accept_waiting(fd);
    set_nonblocking(s, 0);
    ssize_t n = recv(s, buffer, 4, MSG_PEEK);
    printf("peek %zd %.4s\n", n, buffer);
    memset(buffer, 0, sizeof buffer);
    n = recv(s, buffer, 8, MSG_WAITALL);
    printf("all %zd %.8s\n", n, buffer);
    printf("send %zd\n", send(s, "ok\n", 3, 0));
    n = recv(s, buffer, 8, 0);
    printf("end %zd\n", n);
    return 0;
}

// -- poll

static int clocks(void) {
    struct timespec a, b, wait = {.tv_nsec = 20000000};
    clock_gettime(CLOCK_MONOTONIC, &a);
    nanosleep(&wait, 0);
    clock_gettime(CLOCK_MONOTONIC, &b);
    long long passed = (b.tv_sec - a.tv_sec) * 1000000000LL + b.tv_nsec - a.tv_nsec;
    printf("slept %d\n", passed >= 20000000);
    printf("poll %d\n", poll(0, 0, 1));
    return 0;
}

static int poll_many(int listener) {
    int ready;
    struct pollfd p[] = {
        {.fd = 0, .events = POLLIN}, {.fd = 1, .events = POLLOUT}, {.fd = listener, .events = POLLIN},
        {.fd = 77, .events = POLLIN},
    };
    int n = poll(p, 4, 1000);
    printf("%d: %d %d %d %d\n", n, p[0].revents & POLLIN ? 1 : 0, p[1].revents & POLLOUT ? 1 : 0, p[2].revents,
           p[3].revents & POLLNVAL ? 1 : 0);
    ioctl(0, FIONREAD, &ready);
    printf("ready %d\n", ready);
    return 0;
}

static int hang(int fd) {
    struct pollfd p = {.fd = fd, .events = POLLIN};
    write(1, "waiting\n", 8);
    return poll(&p, 1, -1);
}

// -- files

static int cat(const char *path) {
    char buffer[4096];
    int fd = open(path, O_RDONLY);
    if (fd < 0) return printf("open: %s\n", strerror(errno)), 1;
    ssize_t got;
    while ((got = read(fd, buffer, sizeof buffer)) > 0) write(1, buffer, got);
    return 0;
}

static int try_path(int dir, const char *path) {
    __wasi_filestat_t file;
    __wasi_fd_t fd = 0;
    __wasi_size_t size;
    char buffer[16];
    printf("%s: stat %d", path, __wasi_path_filestat_get(dir, 0, path, &file));
    int e = __wasi_path_open(dir, 0, path, 0, __WASI_RIGHTS_FD_READ, 0, 0, &fd);
    printf(" open %d", e);
    if (!e) close(fd);
    e = __wasi_path_open(dir, 0, path, __WASI_OFLAGS_DIRECTORY, __WASI_RIGHTS_FD_READDIR, 0, 0, &fd);
    printf(" directory %d", e);
    if (!e) close(fd);
    printf(" readlink %d\n", __wasi_path_readlink(dir, path, (uint8_t *)buffer, sizeof buffer, &size));
    return 0;
}

static int paths(int dir) {
    const char *names[] = {"a.txt", "sub", "sub/b.txt", "sub/", "a.txt/", "a.txt/x", "none", "none/x", ".", "./a.txt",
                           "sub/../a.txt", "..", "../x", "sub/../../x", "/a.txt", "", "sub//b.txt", "sub/./b.txt"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) try_path(dir, names[i]);
    return 0;
}

static int reading(int dir) {
    char a[4] = {0}, b[8] = {0};
    __wasi_fd_t fd;
    __wasi_size_t n;
    __wasi_filesize_t at;
    if (__wasi_path_open(dir, 0, "a.txt", 0, __WASI_RIGHTS_FD_READ | __WASI_RIGHTS_FD_SEEK, 0, 0, &fd)) return 1;
    __wasi_iovec_t two[] = {{(uint8_t *)a, 3}, {(uint8_t *)b, 7}};
    int e = __wasi_fd_read(fd, two, 2, &n);
    printf("read %d %zu %s %s\n", e, n, a, b);
    e = __wasi_fd_seek(fd, -2, __WASI_WHENCE_END, &at);
    printf("seek end %d %llu\n", e, (unsigned long long)at);
    e = __wasi_fd_read(fd, two, 1, &n);
    printf("read %d %zu %.2s\n", e, n, a);
    e = __wasi_fd_read(fd, two, 1, &n);
    printf("read %d %zu\n", e, n);
    printf("seek before %d\n", __wasi_fd_seek(fd, -100, __WASI_WHENCE_CUR, &at));
    e = __wasi_fd_seek(fd, 1, __WASI_WHENCE_SET, &at);
    printf("seek set %d %llu\n", e, (unsigned long long)at);
    e = __wasi_fd_pread(fd, two, 1, 4, &n);
    printf("pread %d %zu %.3s\n", e, n, a);
    e = __wasi_fd_tell(fd, &at);
    printf("tell %d %llu\n", e, (unsigned long long)at);
    e = __wasi_fd_pread(fd, two, 1, 1000, &n);
    printf("pread past %d %zu\n", e, n);
    return 0;
}

static int compare(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

static int list(const char *path, int small) {
    char *names[64];
    int count = 0;
    if (!small) {
        DIR *d = opendir(path);
        if (!d) return 1;
        for (struct dirent *e; (e = readdir(d)) && count < 64;) {
            names[count] = malloc(300);
            snprintf(names[count++], 300, "%s %d", e->d_name, e->d_type);
        }
    } else {  // one entry at a time: cookies and records that are cut off
        int fd = open(path, O_RDONLY | O_DIRECTORY);
        uint8_t buffer[24 + 40];
        __wasi_size_t used;
        __wasi_dircookie_t cookie = 0;
        for (;;) {
            if (__wasi_fd_readdir(fd, buffer, sizeof buffer, cookie, &used)) return 2;
            if (used < sizeof(__wasi_dirent_t)) break;
            __wasi_dirent_t entry;
            memcpy(&entry, buffer, sizeof entry);
            if (sizeof entry + entry.d_namlen > sizeof buffer) return 3;
            names[count] = malloc(300);
            snprintf(names[count++], 300, "%.*s %d", (int)entry.d_namlen, buffer + sizeof entry, entry.d_type);
            cookie = entry.d_next;
        }
    }
    qsort(names, count, sizeof *names, compare);
    for (int i = 0; i < count; i++) puts(names[i]);
    return 0;
}

static int changing(int dir) {
    __wasi_fd_t fd, file;
    __wasi_size_t n;
    __wasi_ciovec_t bytes = {(const uint8_t *)"x", 1};
    if (__wasi_path_open(dir, 0, "a.txt", 0, __WASI_RIGHTS_FD_READ, 0, 0, &file)) return 1;
    int e[] = {
        __wasi_path_open(dir, 0, "new", __WASI_OFLAGS_CREAT, __WASI_RIGHTS_FD_WRITE, 0, 0, &fd),
        __wasi_path_open(dir, 0, "a.txt", __WASI_OFLAGS_TRUNC, __WASI_RIGHTS_FD_WRITE, 0, 0, &fd),
        __wasi_path_open(dir, 0, "a.txt", 0, __WASI_RIGHTS_FD_READ | __WASI_RIGHTS_FD_WRITE, 0, 0, &fd),
        __wasi_path_create_directory(dir, "d"),
        __wasi_path_unlink_file(dir, "a.txt"),
        __wasi_path_remove_directory(dir, "sub"),
        __wasi_path_rename(dir, "a.txt", dir, "b.txt"),
        __wasi_path_link(dir, 0, "a.txt", dir, "b.txt"),
        __wasi_path_symlink("a.txt", dir, "b.txt"),
        __wasi_path_filestat_set_times(dir, 0, "a.txt", 0, 0, 1),
        __wasi_fd_write(file, &bytes, 1, &n),
        __wasi_fd_pwrite(file, &bytes, 1, 0, &n),
        __wasi_fd_filestat_set_size(file, 0),
        __wasi_fd_filestat_set_times(file, 0, 0, 1),
        __wasi_fd_allocate(file, 0, 100),
    };
    for (size_t i = 0; i < sizeof e / sizeof *e; i++) printf("%d ", e[i]);
    printf("\n");
    return 0;
}

static int renumber(int fd) {
    printf("%d\n", __wasi_fd_renumber(fd, 1));  // from here on standard output is fd
    __wasi_fdstat_t stat;
    fprintf(stderr, "%d %d %d\n", __wasi_fd_fdstat_get(fd, &stat), __wasi_fd_renumber(99, 1), __wasi_fd_renumber(2, 2));
    close(1);
    fprintf(stderr, "%d\n", __wasi_fd_fdstat_get(1, &stat));
    return 0;
}

static int show(const char *what, int e) { return printf("%s %d\n", what, e), e; }

static int open_many(int dir) {
    __wasi_fd_t fd;
    int count = 0, e;
    while (!(e = __wasi_path_open(dir, 0, "a.txt", 0, __WASI_RIGHTS_FD_READ, 0, 0, &fd))) count++;
    printf("%d then %d\n", count, e);
    return 0;
}

static int open_some(int dir) {  // numbers are the lowest that are free
    __wasi_fd_t fd[4];
    for (int i = 0; i < 3; i++) __wasi_path_open(dir, 0, "a.txt", 0, __WASI_RIGHTS_FD_READ, 0, 0, &fd[i]);
    printf("%d %d\n", fd[1] - fd[0], fd[2] - fd[1]);
    show("close", __wasi_fd_close(fd[1]));
    show("closed", __wasi_fd_close(fd[1]));
    show("open", __wasi_path_open(dir, 0, "a.txt", 0, __WASI_RIGHTS_FD_READ, 0, 0, &fd[3]));
    printf("%d\n", fd[3] == fd[1]);
    show("renumber", __wasi_fd_renumber(fd[0], fd[2]));
    show("moved", __wasi_fd_close(fd[0]));
    show("there", __wasi_fd_close(fd[2]));
    return 3;
}

static int functions(int dir) {  // one line for each function that the others leave out
    __wasi_timestamp_t t;
    __wasi_size_t count, size, n;
    __wasi_fd_t fd;
    __wasi_fdstat_t stat;
    uint8_t buffer[512];
    char *pointers[8];
    show("clock res", __wasi_clock_res_get(__WASI_CLOCKID_MONOTONIC, &t));
    show("clock time", __wasi_clock_time_get(__WASI_CLOCKID_REALTIME, 0, &t));
    show("args", __wasi_args_sizes_get(&count, &size));
    printf("%zu %zu\n", count, size);
    show("args", __wasi_args_get((uint8_t **)pointers, buffer));
    show("environ", __wasi_environ_sizes_get(&count, &size));
    printf("%zu %zu\n", count, size);
    show("random", __wasi_random_get(buffer, sizeof buffer));
    show("yield", __wasi_sched_yield());
    show("open", __wasi_path_open(dir, 0, "a.txt", 0, __WASI_RIGHTS_FD_READ | __WASI_RIGHTS_FD_WRITE, 0, 0, &fd));
    show("advise", __wasi_fd_advise(fd, 0, 10, 1));
    show("datasync", __wasi_fd_datasync(fd));
    show("sync", __wasi_fd_sync(fd));
    show("fdstat", __wasi_fd_fdstat_get(fd, &stat));
    printf("%d %d\n", stat.fs_filetype, stat.fs_flags);
    show("append", __wasi_fd_fdstat_set_flags(fd, __WASI_FDFLAGS_APPEND));
    __wasi_ciovec_t out = {(const uint8_t *)"xy", 2};
    show("write", __wasi_fd_write(fd, &out, 1, &n));
    show("accept", __wasi_sock_accept(fd, 0, &fd));
    show("shutdown", __wasi_sock_shutdown(fd, 3));
    show("read directory", __wasi_fd_read(dir, 0, 0, &n));
    show("prestat", __wasi_fd_prestat_get(fd, (__wasi_prestat_t *)buffer));
    show("name", __wasi_fd_prestat_dir_name(dir, buffer, 2));
    show("closed", __wasi_fd_datasync(1000));
    show("link", __wasi_path_symlink("a.txt", dir, "link"));
    show("read link", __wasi_path_readlink(dir, "link", buffer, sizeof buffer, &n));
    printf("%zu %.5s\n", n, buffer);
    __wasi_subscription_t none[1] = {{.userdata = 7, .u = {.tag = __WASI_EVENTTYPE_FD_READ, .u = {.fd_read = {1000}}}}};
    __wasi_event_t event;
    show("poll nothing", __wasi_poll_oneoff(none, &event, 0, &n));
    return 0;
}

static int directory(int dir) {
    uint8_t buffer[16];
    __wasi_iovec_t in = {buffer, 16};
    __wasi_ciovec_t out = {buffer, 16};
    __wasi_size_t n;
    __wasi_filesize_t at;
    show("read", __wasi_fd_read(dir, &in, 1, &n));
    show("pread", __wasi_fd_pread(dir, &in, 1, 0, &n));
    show("write", __wasi_fd_write(dir, &out, 1, &n));
    show("seek", __wasi_fd_seek(dir, 0, 0, &at));
    show("tell", __wasi_fd_tell(dir, &at));
    show("accept", __wasi_sock_accept(dir, 0, &(__wasi_fd_t){0}));
    show("shutdown", __wasi_sock_shutdown(dir, 1));
    return 0;
}

// -- a private directory, and who we are

static int volume(int dir) {
    __wasi_fd_t fd;
    __wasi_size_t n;
    __wasi_filesize_t at;
    __wasi_filestat_t stat;
    char buffer[16] = {0};
    __wasi_rights_t both = __WASI_RIGHTS_FD_READ | __WASI_RIGHTS_FD_WRITE | __WASI_RIGHTS_FD_SEEK;
    show("create", __wasi_path_open(dir, 0, "a", __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL, both, 0, 0, &fd));
    __wasi_ciovec_t out = {(const uint8_t *)"hello world", 11};
    __wasi_iovec_t in = {(uint8_t *)buffer, 15};
    show("write", __wasi_fd_write(fd, &out, 1, &n));
    show("pwrite", __wasi_fd_pwrite(fd, &out, 1, 20, &n));
    show("seek", __wasi_fd_seek(fd, 0, __WASI_WHENCE_SET, &at));
    show("read", __wasi_fd_read(fd, &in, 1, &n));
    printf("%zu %.11s %d\n", n, buffer, buffer[12]);
    show("size", __wasi_fd_filestat_set_size(fd, 5));
    show("allocate", __wasi_fd_allocate(fd, 0, 9));
    show("stat", __wasi_fd_filestat_get(fd, &stat));
    printf("%llu %d\n", (unsigned long long)stat.size, stat.filetype);
    show("times", __wasi_fd_filestat_set_times(fd, 5, 7, __WASI_FSTFLAGS_ATIM | __WASI_FSTFLAGS_MTIM));
    __wasi_path_filestat_get(dir, 0, "a", &stat);
    printf("%llu %llu\n", (unsigned long long)stat.atim, (unsigned long long)stat.mtim);
    show("exists", __wasi_path_open(dir, 0, "a", __WASI_OFLAGS_CREAT | __WASI_OFLAGS_EXCL, both, 0, 0, &fd));
    show("mkdir", __wasi_path_create_directory(dir, "d"));
    show("mkdir again", __wasi_path_create_directory(dir, "d"));
    show("link", __wasi_path_link(dir, 0, "a", dir, "d/b"));
    show("rename", __wasi_path_rename(dir, "a", dir, "d/c"));
    show("not empty", __wasi_path_remove_directory(dir, "d"));
    show("is directory", __wasi_path_unlink_file(dir, "d"));
    show("gone", __wasi_path_filestat_get(dir, 0, "a", &stat));
    show("moved", __wasi_path_filestat_get(dir, 0, "d/c", &stat));
    printf("links %llu\n", (unsigned long long)stat.nlink);
    show("into itself", __wasi_path_rename(dir, "d", dir, "d/e"));
    show("out", __wasi_path_rename(dir, "d", dir, "../e"));
    show("unlink", __wasi_path_unlink_file(dir, "d/b"));
    show("unlink", __wasi_path_unlink_file(dir, "d/c"));
    show("rmdir", __wasi_path_remove_directory(dir, "d"));
    show("still readable", __wasi_fd_seek(fd, 0, __WASI_WHENCE_SET, &at));
    return 0;
}

static int fill(const char *path) {  // until it is full, then again
    static char block[10000];
    for (int round = 0; round < 2; round++) {
        int fd = open(path, O_CREAT | O_WRONLY | O_APPEND, 0600), count = 0;
        while (write(fd, block, sizeof block) == sizeof block) count++;
        printf("%d then %d\n", count, errno);
        close(fd);
        unlink(path);
    }
    return 0;
}

static int ask(const char *sign, const char *key) {
    uint8_t buffer[256];
    int fd = open(sign, O_RDWR);
    if (fd < 0) return 1;
    write(fd, "message", 7);
    ssize_t n = read(fd, buffer, sizeof buffer);
    for (ssize_t i = 0; i < n; i++) printf("%02x", buffer[i]);
    printf("\n");
    close(fd);
    fd = open(key, O_RDONLY);
    n = read(fd, buffer, sizeof buffer);
    for (ssize_t i = 0; i < n; i++) printf("%02x", buffer[i]);
    printf("\n");
    return 0;
}

int main(int argc, char **argv) {
    if (argc < 2) return 99;
    const char *what = argv[1];
    int a = argc > 2 ? number(argv[2]) : 0, b = argc > 3 ? number(argv[3]) : 0;
    if (!strcmp(what, "echo")) return echo();
    if (!strcmp(what, "environment")) return environment(argc, argv);
    if (!strcmp(what, "describe")) return describe(a);
    if (!strcmp(what, "null")) return null_device(a);
    if (!strcmp(what, "connected")) return connected(a);
    if (!strcmp(what, "listening")) return listening(a);
    if (!strcmp(what, "echo-stream")) return echo_stream(a);
    if (!strcmp(what, "server")) return server(a, b);
    if (!strcmp(what, "flood")) return flood(a, b, argc > 4);
    if (!strcmp(what, "half-close")) return half_close(a);
    if (!strcmp(what, "receive")) return receive(a);
    if (!strcmp(what, "clocks")) return clocks();
    if (!strcmp(what, "poll-many")) return poll_many(a);
    if (!strcmp(what, "hang")) return hang(a);
    if (!strcmp(what, "spin")) { write(1, "spinning\n", 9); for (volatile int i = 0;; i++) {} }
    if (!strcmp(what, "cat")) return cat(argv[2]);
    if (!strcmp(what, "paths")) return paths(a);
    if (!strcmp(what, "reading")) return reading(a);
    if (!strcmp(what, "list")) return list(argv[2], argc > 3);
    if (!strcmp(what, "changing")) return changing(a);
    if (!strcmp(what, "renumber")) return renumber(a);
    if (!strcmp(what, "open-many")) return open_many(a);
    if (!strcmp(what, "open-some")) return open_some(a);
    if (!strcmp(what, "functions")) return functions(a);
    if (!strcmp(what, "directory")) return directory(a);
    if (!strcmp(what, "volume")) return volume(a);
    if (!strcmp(what, "fill")) return fill(argv[2]);
    if (!strcmp(what, "ask")) return ask(argv[2], argv[3]);
    return 98;
}
