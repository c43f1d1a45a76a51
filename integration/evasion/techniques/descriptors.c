/* What is done with an open database, and ways to come by one. */
#define _GNU_SOURCE
#include "techniques.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/aio_abi.h>
#include <linux/io_uring.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

/* A file with nothing but the line. */
static int line_file(void)
{
    int fd = open(WORK "/line", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0 || write(fd, LINE, strlen(LINE)) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        die("file of one line");
    return fd;
}

/* A database open at its end; -1 with errno. sendfile and splice take no descriptor with O_APPEND. */
static int at_the_end(void)
{
    int fd = open(PASSWD, O_RDWR | O_CLOEXEC);
    if (fd >= 0 && lseek(fd, 0, SEEK_END) < 0)
        die("seek");
    return fd;
}

/* Maps the open database and closes it; NULL with errno. */
static char *map_of(int fd)
{
    char *map = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return NULL;
    close(fd);
    return map;
}

static void write_to_map(char *map)
{
    char *games = strstr(map, "games:x:5:60:");
    if (!games)
        die("no account games");
    memcpy(games, "games:x:0:00:", 13);
}

static int mapped(void)
{
    char *map = map_of(open(PASSWD, O_RDWR));
    if (!map)
        return errno;
    write_to_map(map);
    return 0;
}

/* A process that opens the database, waits until everybody has forgotten about it, writes, and stays with it open. */
static int later(int by_map)
{
    int fds[2], result = 202;
    if (pipe(fds) < 0)
        die("pipe");
    if (must_fork() == 0) {
        setsid();
        /* Runtimes wait for whoever holds the output of an exec session. */
        for (int standard = 0; standard < 3; standard++)
            close(standard);
        int fd = open(PASSWD, O_RDWR | O_APPEND);
        char *map = by_map ? map_of(fd) : NULL;
        result = fd < 0 || (by_map && !map) ? errno : 0;
        usleep(2500000);
        if (map)
            write_to_map(map);
        else if (result == 0)
            result = outcome(write(fd, LINE, strlen(LINE)));
        if (write(fds[1], &result, sizeof result) < 0)
            die("tell the result");
        for (;;)
            pause();
    }
    if (read(fds[0], &result, sizeof result) < 0)
        die("read the result");
    return result;
}

static int written_later(void) { return later(0); }
static int mapped_and_written_later(void) { return later(1); }

static int sent(void)
{
    int from = line_file(), to = at_the_end();
    return to < 0 ? errno : outcome(sendfile(to, from, NULL, strlen(LINE)));
}

static int spliced(void)
{
    int pipes[2], to = at_the_end();
    if (to < 0)
        return errno;
    if (pipe(pipes) < 0 || write(pipes[1], LINE, strlen(LINE)) < 0)
        die("pipe");
    return outcome(splice(pipes[0], NULL, to, NULL, strlen(LINE), 0));
}

static int copied_range(void)
{
    int from = line_file(), to = at_the_end();
    return to < 0 ? errno : outcome(copy_file_range(from, NULL, to, NULL, strlen(LINE), 0));
}

static int hole(void)
{
    int fd = open(PASSWD, O_RDWR);
    return fd < 0 ? errno : outcome(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 20));
}

static int cut_by_descriptor(void)
{
    int fd = open(PASSWD, O_WRONLY);
    return fd < 0 ? errno : outcome(ftruncate(fd, 10));
}

static int asynchronous(void)
{
    aio_context_t context = 0;
    int fd = at_the_end();
    if (fd < 0)
        return errno;
    struct iocb request = {
        .aio_lio_opcode = IOCB_CMD_PWRITE, .aio_fildes = (uint32_t)fd, .aio_buf = (uint64_t)(uintptr_t)LINE,
        .aio_nbytes = strlen(LINE), .aio_offset = lseek(fd, 0, SEEK_CUR)
    };
    struct iocb *requests = &request;
    struct io_event event;
    if (syscall(SYS_io_setup, 1, &context) < 0 || syscall(SYS_io_submit, context, 1, &requests) != 1)
        return errno;
    return outcome(syscall(SYS_io_getevents, context, 1, 1, &event, NULL));
}

/* A ring with one entry. */
struct ring {
    int fd;
    char *rings;
    struct io_uring_sqe *entry;
    struct io_uring_params parameters;
};

static int ring_open(struct ring *ring)
{
    ring->fd = (int)syscall(SYS_io_uring_setup, 1, &ring->parameters);
    if (ring->fd < 0)
        return errno;
    ring->rings = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, IORING_OFF_SQ_RING);
    ring->entry = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ring->fd, IORING_OFF_SQES);
    if (ring->rings == MAP_FAILED || ring->entry == MAP_FAILED)
        die("map the ring");
    return 0;
}

/* Submits the entry and gives its result; negative: an errno. */
static int ring_call(struct ring *ring)
{
    struct io_sqring_offsets *sq = &ring->parameters.sq_off;
    struct io_cqring_offsets *cq = &ring->parameters.cq_off;
    volatile unsigned *tail = (unsigned *)(ring->rings + sq->tail);
    *(unsigned *)(ring->rings + sq->array) = 0;
    __atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
    if (syscall(SYS_io_uring_enter, ring->fd, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) < 0)
        die("io_uring_enter");
    unsigned *head = (unsigned *)(ring->rings + cq->head);
    unsigned mask = *(unsigned *)(ring->rings + cq->ring_mask);
    struct io_uring_cqe *results = (struct io_uring_cqe *)(ring->rings + cq->cqes);
    int result = results[*head & mask].res;
    __atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
    return result;
}

static int ring_open_and_write(void)
{
    struct ring ring = { 0 };
    int failed = ring_open(&ring);
    if (failed)
        return failed;
    *ring.entry = (struct io_uring_sqe){
        .opcode = IORING_OP_OPENAT, .fd = AT_FDCWD, .addr = (uint64_t)(uintptr_t)PASSWD,
        .open_flags = O_WRONLY | O_APPEND
    };
    int fd = ring_call(&ring);
    if (fd < 0)
        return -fd;
    *ring.entry = (struct io_uring_sqe){
        .opcode = IORING_OP_WRITE, .fd = fd, .addr = (uint64_t)(uintptr_t)LINE, .len = strlen(LINE), .off = (uint64_t)-1
    };
    int written = ring_call(&ring);
    return written < 0 ? -written : 0;
}

static int ring_rename(void)
{
    struct ring ring = { 0 };
    make_changed_copy(PASSWD, SIDE);
    int failed = ring_open(&ring);
    if (failed)
        return failed;
    *ring.entry = (struct io_uring_sqe){
        .opcode = IORING_OP_RENAMEAT, .fd = AT_FDCWD, .addr = (uint64_t)(uintptr_t)SIDE, .len = (uint32_t)AT_FDCWD,
        .addr2 = (uint64_t)(uintptr_t)PASSWD
    };
    int renamed = ring_call(&ring);
    return renamed < 0 ? -renamed : 0;
}

static int passed_by_process(void)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        die("socketpair");
    pid_t child = must_fork();
    if (child == 0) {
        int fd = open(PASSWD, O_WRONLY | O_APPEND);
        if (fd < 0)
            _exit(errno);
        send_descriptor(ends[0], fd);
        _exit(0);
    }
    close(ends[0]);
    int result = append_line(receive_descriptor(ends[1]));
    int status = status_of(child);
    return status ? status : result;
}

static int taken_from_process(void)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, ends) < 0)
        die("socketpair");
    pid_t child = must_fork();
    if (child == 0) {
        int fd = open(PASSWD, O_WRONLY | O_APPEND);
        int failed = errno;
        char byte;
        if (write(ends[0], &fd, sizeof fd) < 0 || read(ends[0], &byte, 1) < 0)
            _exit(201);
        _exit(fd < 0 ? failed : 0);
    }
    int theirs, result = 0;
    if (read(ends[1], &theirs, sizeof theirs) != sizeof theirs)
        die("number of the descriptor");
    if (theirs >= 0) {
        int process = (int)syscall(SYS_pidfd_open, child, 0);
        result = append_line((int)syscall(SYS_pidfd_getfd, process, theirs, 0));
    }
    if (write(ends[1], "", 1) < 0)
        die("tell the process");
    int status = status_of(child);
    return status ? status : result;
}

/* The engine opened the database before the container was there, and left it open at number 3. */
static int held_from_before(void)
{
    return outcome(write(3, LINE, strlen(LINE)));
}

static int connected(void)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SHARED "/socket" };
    int connection = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (connection < 0)
        die("socket");
    for (int i = 0; i < 500; i++) {
        if (connect(connection, (struct sockaddr *)&address, sizeof address) == 0)
            return connection;
        usleep(10000);
    }
    die("connect to the other container");
}

/* The other container, which nobody guards, opens the folder's file and passes it. */
static int passed_by_container(void)
{
    return append_line(receive_descriptor(connected()));
}

/* The other container writes by itself, when it is told to. */
static int written_by_container(void)
{
    int connection = connected();
    char byte = 'w';
    if (write(connection, &byte, 1) < 0 || read(connection, &byte, 1) < 0)
        die("ask the other container");
    return 0;
}

/* The other container's part in both. */
static int accomplice(int passes)
{
    struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = SHARED "/socket" };
    int listener = socket(AF_UNIX, SOCK_STREAM, 0);
    if (listener < 0 || bind(listener, (struct sockaddr *)&address, sizeof address) < 0 || listen(listener, 1) < 0)
        die("listen");
    int connection = accept(listener, NULL, NULL);
    char byte;
    if (connection < 0)
        die("accept");
    if (passes)
        send_descriptor(connection, must_open(SHARED "/accounts/passwd", O_WRONLY | O_APPEND));
    else if (read(connection, &byte, 1) < 0 || append_to(SHARED "/accounts/passwd") != 0 || write(connection, &byte, 1) < 0)
        die("write for the other container");
    return 0;
}

static int passing_accomplice(void) { return accomplice(1); }
static int writing_accomplice(void) { return accomplice(0); }

const struct technique descriptor_techniques[] = {
    { "mmap", mapped },
    { "written-later", written_later },
    { "mapped-and-written-later", mapped_and_written_later },
    { "sendfile", sent },
    { "splice", spliced },
    { "copy-file-range", copied_range },
    { "fallocate", hole },
    { "ftruncate", cut_by_descriptor },
    { "asynchronous-write", asynchronous },
    { "io-uring", ring_open_and_write },
    { "io-uring-rename", ring_rename },
    { "passed-by-process", passed_by_process },
    { "pidfd-getfd", taken_from_process },
    { "held-from-before", held_from_before },
    { "passed-by-container", passed_by_container },
    { "second-containers-volume", written_by_container },
    { "accomplice-passes", passing_accomplice },
    { "accomplice-writes", writing_accomplice },
    { NULL, NULL },
};
