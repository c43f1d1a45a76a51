/*
 *   chaos obey             does what the lines of its standard input say, and answers each with a line:
 *       measure N            opens a harmless file for writing N times: nanoseconds of each
 *       flood N              N threads that open it for writing without a pause, until calm
 *       storm N              N processes that fork a child each, which opens it for writing and ends, without a pause, until calm
 *       calm                 ends both; how many calls that were
 *       reach PATH           opens PATH for writing in a thread of its own; "reached ERRNO NANOSECONDS" when that returns
 *       unlink PATH, symlink PATH, truncate PATH, make PATH (open, exclusively)
 *                            the same call in a thread of its own; "unlink ERRNO NANOSECONDS" and so on
 *       poke N               a signal, whose handler takes N seconds and whose calls are made again, to the thread that was begun last
 *   chaos hang PID PATH    mounts a FUSE file system on PATH in the mount namespace of process PID, which takes every request and
 *                          answers none but the first (FUSE_INIT), those for the folder itself, and that there is nothing called none*;
 *                          says "hangs" when it is mounted
 *   chaos sleep            sleeps, and opens a harmless file for writing every few seconds
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define HARMLESS "/tmp/harmless"
#define MOST_THREADS 64
#define MOST_CALLS 1000000

static atomic_bool calm = true;
static atomic_long calls;
static pthread_t threads[MOST_THREADS];
static pid_t storms[MOST_THREADS];
static int thread_count, storm_count;

static void die(const char *what)
{
    fprintf(stderr, "chaos: %s: %s\n", what, strerror(errno));
    exit(1);
}

static int64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void open_harmless(void)
{
    int fd = open(HARMLESS, O_WRONLY | O_CREAT, 0600);
    if (fd >= 0)
        close(fd);
}

static void measure(long count)
{
    if (count < 1 || count > MOST_CALLS)
        count = 1;
    int64_t *taken = calloc(count, sizeof *taken);
    if (!taken)
        die("calloc");
    for (long i = 0; i < count; i++) {
        int64_t before = now();
        open_harmless();
        taken[i] = now() - before;
    }
    for (long i = 0; i < count; i++)
        printf("%lld ", (long long)taken[i]);
    puts("");
    free(taken);
}

static void *flood(void *unused)
{
    while (!calm) {
        open_harmless();
        calls++;
    }
    return unused;
}

static void storm(void)
{
    for (;;) {
        pid_t child = fork();
        if (child == 0) {
            open_harmless();
            _exit(0);
        }
        if (child > 0)
            waitpid(child, NULL, 0);
    }
}

static void begin(int floods, int forks)
{
    calm = false;
    calls = 0;
    while (thread_count < floods && thread_count < MOST_THREADS)
        if (pthread_create(&threads[thread_count++], NULL, flood, NULL))
            die("pthread_create");
    while (storm_count < forks && storm_count < MOST_THREADS) {
        pid_t child = fork();
        if (child < 0)
            die("fork");
        if (child == 0)
            storm();
        storms[storm_count++] = child;
    }
    puts("begun");
}

static void end(void)
{
    calm = true;
    for (; thread_count > 0; thread_count--)
        pthread_join(threads[thread_count - 1], NULL);
    for (; storm_count > 0; storm_count--) {
        kill(storms[storm_count - 1], SIGKILL);
        waitpid(storms[storm_count - 1], NULL, 0);
    }
    printf("%ld\n", (long)calls);
}

static void *reach(void *path)
{
    int64_t before = now();
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    int error = fd < 0 ? errno : 0;
    printf("reached %d %lld\n", error, (long long)(now() - before));
    fflush(stdout);
    free(path);
    return NULL;
}

struct deed {
    char word[16], path[4096];
};

static void *act(void *argument)
{
    struct deed *deed = argument;
    int64_t before = now();
    int failed = 0;
    if (!strcmp(deed->word, "unlink"))
        failed = unlink(deed->path);
    else if (!strcmp(deed->word, "symlink"))
        failed = symlink("nowhere", deed->path);
    else if (!strcmp(deed->word, "make"))
        failed = open(deed->path, O_WRONLY | O_CREAT | O_EXCL, 0600) < 0;
    else
        failed = truncate(deed->path, 1);
    printf("%s %d %lld\n", deed->word, failed ? errno : 0, (long long)(now() - before));
    fflush(stdout);
    free(deed);
    return NULL;
}

static bool is_deed(const char *word)
{
    return !strcmp(word, "unlink") || !strcmp(word, "symlink") || !strcmp(word, "truncate") || !strcmp(word, "make");
}

static pthread_t begin_deed(const char *word, const char *path)
{
    pthread_t thread;
    struct deed *deed = calloc(1, sizeof *deed);
    if (!deed)
        die("calloc");
    snprintf(deed->word, sizeof deed->word, "%s", word);
    snprintf(deed->path, sizeof deed->path, "%s", path);
    if (pthread_create(&thread, NULL, act, deed))
        die("pthread_create");
    pthread_detach(thread);
    return thread;
}

static volatile sig_atomic_t poke_seconds;

static void poked(int unused)
{
    (void)unused;
    sleep(poke_seconds);
}

static int obey(void)
{
    char line[4096];
    pthread_t last = pthread_self();
    struct sigaction action = {.sa_handler = poked, .sa_flags = SA_RESTART};
    sigaction(SIGUSR1, &action, NULL);
    setvbuf(stdout, NULL, _IOLBF, 0);
    puts("ready");
    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        char *word = strtok(line, " "), *rest = strtok(NULL, " ");
        if (!word)
            continue;
        long number = rest ? atol(rest) : 0;
        pthread_t thread;
        if (!strcmp(word, "measure"))
            measure(number);
        else if (!strcmp(word, "flood"))
            begin(number, 0);
        else if (!strcmp(word, "storm"))
            begin(0, number);
        else if (!strcmp(word, "calm"))
            end();
        else if (!strcmp(word, "reach") && rest) {
            if (pthread_create(&thread, NULL, reach, strdup(rest)))
                die("pthread_create");
            pthread_detach(thread);
        } else if (rest && is_deed(word))
            last = begin_deed(word, rest);
        else if (!strcmp(word, "poke")) {
            poke_seconds = number;
            pthread_kill(last, SIGUSR1);
        } else
            puts("what?");
        fflush(stdout);
    }
    return 0;
}

static int hang(const char *pid, const char *path)
{
    char name[64], options[128];
    static char buffer[FUSE_MIN_READ_BUFFER + (128 << 10)];
    int fuse = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (fuse < 0)
        die("open /dev/fuse (CONFIG_FUSE_FS is needed: modprobe fuse)");
    snprintf(name, sizeof name, "/proc/%s/ns/mnt", pid);
    int namespace = open(name, O_RDONLY | O_CLOEXEC);
    if (namespace < 0 || setns(namespace, CLONE_NEWNS) < 0)
        die("enter the mount namespace");
    snprintf(options, sizeof options, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other", fuse);
    if (mount("hangs", path, "fuse", 0, options) < 0)
        die("mount");
    for (;;) {
        ssize_t length = read(fuse, buffer, sizeof buffer);
        if (length < 0) {
            if (errno == EINTR || errno == EAGAIN || errno == ENOENT)
                continue;
            return 0;
        }
        struct fuse_in_header *request = (void *)buffer;
        if (request->opcode == FUSE_LOOKUP && !strncmp((char *)(request + 1), "none", 4)) {
            struct fuse_out_header answer = {.len = sizeof answer, .error = -ENOENT, .unique = request->unique};
            if (write(fuse, &answer, sizeof answer) < 0)
                die("answer FUSE_LOOKUP");
            continue;
        }
        if (request->opcode == FUSE_GETATTR && request->nodeid == FUSE_ROOT_ID) {
            struct {
                struct fuse_out_header header;
                struct fuse_attr_out attributes;
            } answer = {
                .header = {.len = sizeof answer, .unique = request->unique},
                .attributes = {.attr = {.ino = FUSE_ROOT_ID, .mode = S_IFDIR | 0755, .nlink = 2}},
            };
            if (write(fuse, &answer, sizeof answer) < 0)
                die("answer FUSE_GETATTR");
            continue;
        }
        if (request->opcode != FUSE_INIT)
            continue; /* taken, and never answered */
        struct {
            struct fuse_out_header header;
            struct fuse_init_out init;
        } answer = {
            .header = {.len = sizeof answer, .unique = request->unique},
            .init = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION, .max_write = 4096},
        };
        if (write(fuse, &answer, sizeof answer) < 0)
            die("answer FUSE_INIT");
        puts("hangs");
        fflush(stdout);
    }
}

int main(int count, char **words)
{
    if (count == 2 && !strcmp(words[1], "obey"))
        return obey();
    if (count == 4 && !strcmp(words[1], "hang"))
        return hang(words[2], words[3]);
    if (count == 2 && !strcmp(words[1], "sleep"))
        for (;;) {
            open_harmless();
            sleep(3);
        }
    fprintf(stderr, "usage: chaos obey | hang PID PATH | sleep\n");
    return 64;
}
