/*
 * A workload that checks itself: mixed intercepted calls, each with an effect that shows when it failed, was lost or was done twice.
 * usage: load audit|enforce TAG      goes on until there is a file /stop
 *        load clock                  prints CLOCK_MONOTONIC in nanoseconds
 *
 * Prints at once, a line each:
 *   failed CALL ERRNO PATH         a call that ended otherwise than it must
 *   doubled CALL PATH              an effect that is there twice
 *   doubled descriptor-of-CALL PATH  a second descriptor of what a call opened
 *   account NAME                   an account that was added
 *   slow START END                 a call that took long, CLOCK_MONOTONIC in nanoseconds
 * and at its end:
 *   call CALL COUNT                what was called how often
 *   attempt CALL COUNT OFTEN       refused attempts on databases: so many must be on record, so many were made
 *   worst CALL NANOSECONDS         the call that took longest
 *   done
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define PASSWD "/etc/passwd"
#define SECOND 1000000000LL
/* A call that takes longer is told: no call of a container that is served does. */
#define SLOW 5000000LL
/* Attempts that are further apart than an act goes on are acts of their own, and each is an event. */
#define APART (SECOND + SECOND * 3 / 10)
#define BURST 20

static int enforced;
static const char *tag;
static unsigned long number;

static struct counted {
    const char *name;
    unsigned long count;
} calls[64];

static const char *worst = "none";
static long long worst_time, started;

static long long now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec * SECOND + time.tv_nsec;
}

static long timed(const char *name, long result)
{
    int error = errno;
    long long end = now(), took = end - started;
    struct counted *counted = calls;
    while (counted->name && strcmp(counted->name, name) != 0)
        counted++;
    counted->name = name;
    counted->count++;
    if (took > worst_time) {
        worst_time = took;
        worst = name;
    }
    if (took > SLOW)
        printf("slow %lld %lld\n", started, end);
    errno = error;
    return result;
}

#define CALL(name, expression) (started = now(), timed(name, (long)(expression)))

static void failed(const char *call, const char *path)
{
    printf("failed %s %s %s\n", call, strerrorname_np(errno), path);
}

static void differs(const char *call, const char *path)
{
    printf("failed %s WITHOUT-EFFECT %s\n", call, path);
}

static void doubled(const char *call, const char *path)
{
    printf("doubled %s %s\n", call, path);
}

/* `again` is what the call would fail with if it were done a second time. */
static int check(const char *call, long result, int again, const char *path)
{
    if (result >= 0)
        return 1;
    if (again && errno == again)
        doubled(call, path);
    else
        failed(call, path);
    return again && errno == again;
}

static int lowest(void)
{
    int fd = dup(0);
    close(fd);
    return fd;
}

/* A descriptor comes as the lowest number that is free; one below it is a second one that nobody asked for. */
static void check_number(const char *call, int fd, int expected, const char *path)
{
    if (fd <= expected)
        return;
    printf("doubled descriptor-of-%s %s\n", call, path);
    while (expected < fd)
        close(expected++);
}

static int opened(const char *call, const char *path, int flags)
{
    int expected = lowest();
    int fd = (int)CALL(call, syscall(SYS_openat, AT_FDCWD, path, flags, 0644));
    if (fd >= 0)
        check_number(call, fd, expected, path);
    else if (check(call, fd, flags & O_EXCL ? EEXIST : 0, path))
        /* told; what follows goes on with the file that is there */
        fd = (int)CALL(call, syscall(SYS_openat, AT_FDCWD, path, flags & ~O_EXCL, 0644));
    return fd;
}

static void put(int fd, const char *text)
{
    if (fd >= 0 && write(fd, text, strlen(text)) < 0)
        failed("write", text);
    close(fd);
}

static int holds(const char *path, const char *text)
{
    char buffer[64] = "";
    int fd = open(path, O_RDONLY);
    ssize_t size = fd < 0 ? -1 : read(fd, buffer, sizeof buffer - 1);
    close(fd);
    return size == (ssize_t)strlen(text) && memcmp(buffer, text, strlen(text)) == 0;
}

struct names {
    char one[80], two[80], three[80];
};

static struct names names_in(const char *folder)
{
    struct names names;
    snprintf(names.one, sizeof names.one, "%s/load-%lu-one", folder, number);
    snprintf(names.two, sizeof names.two, "%s/load-%lu-two", folder, number);
    snprintf(names.three, sizeof names.three, "%s/load-%lu-three", folder, number);
    return names;
}

static void remove_name(const char *path)
{
    check("unlink", CALL("unlink", unlink(path)), ENOENT, path);
}

static void files(const char *folder)
{
    struct names names = names_in(folder);
    struct stat status = { 0 };
    put(opened("openat-exclusive", names.one, O_WRONLY | O_CREAT | O_EXCL), "one");
    if (check("link", CALL("link", link(names.one, names.two)), EEXIST, names.two) &&
        (stat(names.one, &status) < 0 || status.st_nlink != 2))
        differs("link", names.two);
    remove_name(names.two);
    check("rename", CALL("rename", rename(names.one, names.two)), ENOENT, names.one);
    if (!holds(names.two, "one"))
        differs("rename", names.two);
    if (check("truncate", CALL("truncate", truncate(names.two, 2)), 0, names.two) && !holds(names.two, "on"))
        differs("truncate", names.two);
    if (check("chmod", CALL("chmod", chmod(names.two, 0640)), 0, names.two) &&
        (stat(names.two, &status) < 0 || (status.st_mode & 07777) != 0640))
        differs("chmod", names.two);
    if (check("chown", CALL("chown", chown(names.two, 1, 2)), 0, names.two) &&
        (stat(names.two, &status) < 0 || status.st_uid != 1 || status.st_gid != 2))
        differs("chown", names.two);
    put(opened("openat-truncating", names.two, O_WRONLY | O_TRUNC), "two");
    if (!holds(names.two, "two"))
        differs("openat-truncating", names.two);
    remove_name(names.two);
}

/* Done twice an exchange is undone, silently: only what is in the files tells. */
static void exchanges(const char *folder)
{
    struct names names = names_in(folder);
    put(opened("openat-exclusive", names.one, O_WRONLY | O_CREAT | O_EXCL), "one");
    put(opened("openat-exclusive", names.two, O_WRONLY | O_CREAT | O_EXCL), "two");
    long result = CALL("renameat2", syscall(SYS_renameat2, AT_FDCWD, names.one, AT_FDCWD, names.two, RENAME_EXCHANGE));
    if (check("renameat2-exchange", result, 0, names.one) && !(holds(names.one, "two") && holds(names.two, "one")))
        doubled("renameat2-exchange", names.one);
    result = CALL("renameat2", syscall(SYS_renameat2, AT_FDCWD, names.one, AT_FDCWD, names.three, RENAME_NOREPLACE));
    check("renameat2-noreplace", result, ENOENT, names.one);
    remove_name(names.two);
    remove_name(names.three);
}

static void entries(const char *folder)
{
    struct names names = names_in(folder);
    check("mkdir", CALL("mkdir", mkdir(names.one, 0755)), EEXIST, names.one);
    check("rmdir", CALL("rmdir", rmdir(names.one)), ENOENT, names.one);
    check("symlink", CALL("symlink", symlink("nowhere", names.two)), EEXIST, names.two);
    remove_name(names.two);
    check("mknod", CALL("mknod", mknod(names.three, S_IFIFO | 0600, 0)), EEXIST, names.three);
    remove_name(names.three);
    struct open_how how = { .flags = O_WRONLY | O_CREAT | O_EXCL, .mode = 0600 };
    int expected = lowest();
    int fd = (int)CALL("openat2", syscall(SYS_openat2, AT_FDCWD, names.one, &how, sizeof how));
    if (check("openat2", fd, EEXIST, names.one) && fd >= 0)
        check_number("openat2", fd, expected, names.one);
    close(fd);
    remove_name(names.one);
}

static void unnamed(const char *folder)
{
    struct names names = names_in(folder);
    char link[40];
    int fd = opened("openat-tmpfile", folder, O_TMPFILE | O_WRONLY);
    if (fd < 0)
        return;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    long result = CALL("linkat", linkat(AT_FDCWD, link, AT_FDCWD, names.one, AT_SYMLINK_FOLLOW));
    check("linkat", result, EEXIST, names.one);
    close(fd);
    remove_name(names.one);
}

static int ended_well(pid_t child)
{
    int status = -1;
    return child > 0 && waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void programs(void)
{
    CALL("execve", 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        execl("/proc/self/exe", "load", "nothing", (char *)NULL);
        _exit(errno);
    }
    if (!ended_well(child)) {
        errno = 0;
        failed("execve", "/proc/self/exe");
    }
}

/* One opens a fifo for writing, which waits for a reader. */
static void meeting(const char *folder)
{
    struct names names = names_in(folder);
    check("mknod", CALL("mknod", mknod(names.one, S_IFIFO | 0600, 0)), EEXIST, names.one);
    CALL("openat-fifo", 0);
    fflush(stdout);
    pid_t child = fork();
    if (child == 0) {
        int fd = open(names.one, O_WRONLY);
        _exit(fd >= 0 && write(fd, "x", 1) == 1 ? 0 : 1);
    }
    usleep(50000);
    int fd = open(names.one, O_RDONLY | O_NONBLOCK);
    struct pollfd waiting = { .fd = fd, .events = POLLIN };
    if (poll(&waiting, 1, 20000) != 1) {
        errno = ETIMEDOUT;
        failed("openat-fifo", names.one);
        kill(child, SIGKILL);
        waitpid(child, NULL, 0);
    } else if (!ended_well(child)) {
        errno = EIO;
        failed("openat-fifo", names.one);
    }
    close(fd);
    remove_name(names.one);
}

static const char record[] = "/tmp/load-record";
static unsigned long lines;

static void append(void)
{
    char line[40];
    snprintf(line, sizeof line, "%lu\n", lines++);
    put(opened("openat-append", record, O_WRONLY | O_APPEND | O_CREAT), line);
}

/* Every line once and in order. */
static void check_record(void)
{
    FILE *file = fopen(record, "r");
    unsigned long expected = 0, line;
    while (file && fscanf(file, "%lu", &line) == 1) {
        if (line < expected)
            doubled("append", record);
        else if (line > expected)
            differs("append", record);
        expected = line + 1;
    }
    if (expected != lines)
        differs("append", record);
}

/* As useradd does it: a copy with one line more is renamed over the database. */
static void replace(const char *line)
{
    static const char copy[] = PASSWD ".load";
    static char bytes[1 << 22];
    int fd = open(PASSWD, O_RDONLY);
    ssize_t size = read(fd, bytes, sizeof bytes - 1024);
    close(fd);
    if (size < 0)
        return failed("read", PASSWD);
    memcpy(bytes + size, line, strlen(line) + 1);
    fd = opened("openat-exclusive", copy, O_WRONLY | O_CREAT | O_EXCL);
    if (fd < 0)
        return;
    put(fd, bytes);
    check("rename-database", CALL("rename-database", rename(copy, PASSWD)), ENOENT, PASSWD);
}

static void add_account(unsigned long account)
{
    char line[120];
    snprintf(line, sizeof line, "%s-%lu:x:%lu:1000::/nowhere:/bin/false\n", tag, account, 100000 + account);
    if (account % 2)
        replace(line);
    else
        put(opened("openat-database", PASSWD, O_WRONLY | O_APPEND), line);
    printf("account %s-%lu\n", tag, account);
}

#define KINDS 6
static struct {
    const char *call;
    unsigned long on_record, made;
} attempts[KINDS] = { { "openat", 0, 0 }, { "rename", 0, 0 }, { "truncate", 0, 0 },
                      { "unlink", 0, 0 }, { "chmod", 0, 0 },  { "link", 0, 0 } };

static long try(unsigned long kind)
{
    switch (kind) {
    case 0:
        return CALL("openat-database", syscall(SYS_openat, AT_FDCWD, PASSWD, O_WRONLY | O_APPEND, 0));
    case 1:
        return CALL("rename-database", rename("/tmp/load-other", PASSWD));
    case 2:
        return CALL("truncate-database", truncate("/etc/shadow", 0));
    case 3:
        return CALL("unlink-database", unlink("/etc/group"));
    case 4:
        return CALL("chmod-database", chmod("/etc/shadow", 0666));
    default:
        return CALL("link-database", link(PASSWD, "/tmp/load-alias"));
    }
}

/* In enforce an account database is not to be changed: EPERM, whatever the moment. */
static void attempt(unsigned long count)
{
    unsigned long kind = count % KINDS, often = count % 8 == 7 ? BURST : 1;
    attempts[kind].on_record++;
    for (unsigned long i = 0; i < often; i++) {
        long result = try(kind);
        attempts[kind].made++;
        if (result >= 0)
            errno = 0;
        if (result >= 0 || errno != EPERM)
            failed(attempts[kind].call, "a database");
    }
}

static void one_round(void)
{
    /* Directly in /etc and below something that came later, a sealed workload has everything done for it; elsewhere nothing. */
    static const char *const folders[] = { "/tmp", "/etc", "/tmp/load", "/dev/shm" };
    const char *folder = folders[number % 4];
    append();
    files(folder);
    exchanges(folder);
    entries(folder);
    unnamed(folder);
    if (number % 16 == 3)
        programs();
    if (number % 64 == 5)
        meeting(folder);
}

int main(int count, char **words)
{
    if (count == 2 && strcmp(words[1], "clock") == 0)
        return printf("%lld\n", now()) < 0;
    if (count == 2)
        return strcmp(words[1], "nothing") != 0;
    if (count != 3) {
        fprintf(stderr, "usage: load audit|enforce TAG\n");
        return 64;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    umask(022);
    enforced = strcmp(words[1], "enforce") == 0;
    tag = words[2];
    mkdir("/tmp/load", 0755);
    put(open("/tmp/load-other", O_WRONLY | O_CREAT, 0644), "root::0:0:::\n");
    printf("ready\n");
    unsigned long turns = 0;
    long long next = now() + APART;
    for (; access("/stop", F_OK) < 0; number++) {
        one_round();
        if (now() > next) {
            enforced ? attempt(turns) : add_account(turns);
            turns++;
            next = now() + APART;
        }
        usleep(4000);
    }
    check_record();
    for (const struct counted *counted = calls; counted->name; counted++)
        printf("call %s %lu\n", counted->name, counted->count);
    for (size_t i = 0; enforced && i < KINDS; i++)
        printf("attempt %s %lu %lu\n", attempts[i].call, attempts[i].on_record, attempts[i].made);
    printf("worst %s %lld\ndone\n", worst, worst_time);
    return 0;
}
