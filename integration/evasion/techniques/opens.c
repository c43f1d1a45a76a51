/* Spellings of an open for writing, and of the path to the database. */
#define _GNU_SOURCE
#include "techniques.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define APPEND (O_WRONLY | O_APPEND)

static int direct(void)
{
    return append_line((int)syscall(SYS_open, PASSWD, APPEND, 0));
}

static int rewrite(void)
{
    return append_line(open(PASSWD, O_WRONLY | O_TRUNC));
}

static int read_and_write(void)
{
    int fd = open(PASSWD, O_RDWR);
    if (fd < 0)
        return errno;
    return outcome(pwrite(fd, LINE, strlen(LINE), lseek(fd, 0, SEEK_END)));
}

/* open(2), BUGS: O_RDONLY | O_TRUNC truncates on most file systems. */
static int truncate_by_reading(void)
{
    return outcome(open(PASSWD, O_RDONLY | O_TRUNC));
}

/* open(2), "File access mode": mode 3 asks for both permissions and gives neither; O_TRUNC works all the same. */
static int third_access_mode(void)
{
    return outcome(open(PASSWD, 3 | O_TRUNC));
}

static int by_creat(void)
{
    return append_line((int)syscall(SYS_creat, PASSWD, 0644));
}

static int open_how(int directory, const char *path, struct open_how *how, size_t size)
{
    how->flags |= APPEND;
    return append_line((int)syscall(SYS_openat2, directory, path, how, size));
}

static int by_openat2(void)
{
    struct open_how how = { 0 };
    return open_how(AT_FDCWD, PASSWD, &how, sizeof how);
}

/* openat2(2), "Extensibility": a larger struct is taken as long as the rest is zero. */
static int longer_open_how(void)
{
    struct {
        struct open_how how;
        char rest[104];
    } longer = { 0 };
    return open_how(AT_FDCWD, PASSWD, &longer.how, sizeof longer);
}

static int in_root(void)
{
    struct open_how how = { .resolve = RESOLVE_IN_ROOT };
    return open_how(must_open("/etc", O_PATH), "/../../passwd", &how, sizeof how);
}

/* 32-bit arguments: the kernel ignores their upper halves. */
static int upper_halves(void)
{
    uint64_t garbage = (uint64_t)0xdeadbeef << 32;
    uint64_t directory = garbage | (uint32_t)AT_FDCWD;
    return append_line((int)syscall(SYS_openat, directory, PASSWD, garbage | APPEND, garbage));
}

static int upper_halves_of_descriptor(void)
{
    uint64_t garbage = (uint64_t)0x7fffffff << 32;
    int etc = must_open("/etc", O_PATH);
    return append_line((int)syscall(SYS_openat, garbage | (uint32_t)etc, "passwd", garbage | APPEND, 0));
}

/* open(2), O_EXCL: without O_CREAT it means nothing for a file. Bits that are no flags mean nothing to open and openat. */
static int meaningless_flags(void)
{
    return append_line((int)syscall(SYS_openat, AT_FDCWD, PASSWD, APPEND | O_EXCL | O_NOCTTY | 1 << 30, 0));
}

static int directory_descriptor(void)
{
    return append_line(openat(must_open("/etc/security", O_RDONLY | O_DIRECTORY), "../passwd", APPEND));
}

static int working_directory(void)
{
    if (fchdir(must_open("/etc", O_PATH)) < 0)
        die("fchdir");
    return append_to("passwd");
}

static int deleted_working_directory(void)
{
    must_make_folder(WORK "/gone");
    if (chdir(WORK "/gone") < 0 || rmdir(WORK "/gone") < 0)
        die("remove the working directory");
    return append_to("../../../etc/passwd");
}

/* PATH_MAX is 4096 with the final zero. */
static int longest_path(void)
{
    char path[4096];
    memset(path, '/', sizeof path);
    for (size_t at = 0; at + 40 < sizeof path; at += 2)
        path[at + 1] = '.';
    strcpy(path + sizeof path - strlen("/etc/passwd") - 1, "/etc/passwd");
    if (strlen(path) != 4095)
        die("path of 4095 bytes");
    return append_to(path);
}

static int newline_in_name(void)
{
    if (symlink("/etc", WORK "/a\nb\t\x1b[2J\xff") < 0)
        die("link with a newline");
    return append_to(WORK "/a\nb\t\x1b[2J\xff/passwd");
}

static int symbolic_link(void)
{
    if (symlink("../../etc/passwd", WORK "/link") < 0)
        die("link");
    return append_to(WORK "/link");
}

static int link_to_folder(void)
{
    if (symlink("/etc/../etc/security/..", WORK "/folder") < 0)
        die("link");
    return append_to(WORK "/folder/./passwd");
}

/* path_resolution(7): at most 40 links. */
static int forty_links(void)
{
    char name[64], target[64] = PASSWD;
    for (int i = 0; i < 40; i++) {
        snprintf(name, sizeof name, WORK "/link.%d", i);
        if (symlink(target, name) < 0)
            die("chain of links");
        memcpy(target, name, sizeof target);
    }
    return append_to(name);
}

static int own_root_link(void)
{
    return append_to("/proc/self/root/etc/passwd");
}

static int root_of_init(void)
{
    return append_to("/proc/1/root/etc/passwd");
}

static int own_working_directory_link(void)
{
    if (chdir("/etc") < 0)
        die("chdir");
    return append_to("/proc/self/cwd/passwd");
}

static int reopen(const char *format, int flags)
{
    char path[64];
    snprintf(path, sizeof path, format, must_open(PASSWD, flags));
    return append_to(path);
}

static int descriptor_link(void) { return reopen("/proc/self/fd/%d", O_RDONLY); }
static int location_descriptor_link(void) { return reopen("/proc/self/fd/%d", O_PATH); }
static int device_descriptor_link(void) { return reopen("/dev/fd/%d", O_RDONLY); }
static int thread_descriptor_link(void) { return reopen("/proc/thread-self/fd/%d", O_RDONLY); }

static int standard_input_link(void)
{
    if (dup2(must_open(PASSWD, O_RDONLY), 0) < 0)
        die("dup2");
    return append_to("/dev/stdin");
}

static int folder_descriptor_link(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d/passwd", must_open("/etc", O_PATH));
    return append_to(path);
}

/* proc(5), map_files: a link for each mapped file; a mapping for reading can be opened for writing. */
static int mapping_link(void)
{
    int fd = must_open(PASSWD, O_RDONLY);
    char *map = mmap(NULL, 4096, PROT_READ, MAP_SHARED, fd, 0);
    char path[100];
    if (map == MAP_FAILED)
        die("mmap");
    close(fd);
    snprintf(path, sizeof path, "/proc/self/map_files/%lx-%lx", (unsigned long)map, (unsigned long)map + 4096);
    return append_to(path);
}

static long gate(long number, long a, long b, long c, long d)
{
    long result;
    __asm__ volatile("int $0x80"
                     : "=a"(result)
                     : "a"(number), "b"(a), "c"(b), "d"(c), "S"(d)
                     : "memory", "r8", "r9", "r10", "r11");
    result = (int)result;
    if (result < 0) {
        errno = (int)-result;
        return -1;
    }
    return result;
}

/* A copy where a 32-bit pointer reaches it. */
static long low(const char *text)
{
    char *place = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
    if (place == MAP_FAILED)
        die("low memory");
    strcpy(place, text);
    return (long)place;
}

/* Numbers: arch/x86/entry/syscalls/syscall_32.tbl. */
static int gate_open(void) { return append_line((int)gate(5, low(PASSWD), APPEND, 0, 0)); }
static int gate_openat(void) { return append_line((int)gate(295, AT_FDCWD, low(PASSWD), APPEND, 0)); }
static int gate_truncate64(void) { return outcome(gate(193, low(PASSWD), 10, 0, 0)); }

static int gate_upper_halves(void)
{
    long garbage = (long)((uint64_t)0xdeadbeef << 32);
    return append_line((int)gate(garbage | 5, garbage | low(PASSWD), garbage | APPEND, garbage, garbage));
}

static int gate_rename(void)
{
    make_changed_copy(PASSWD, SIDE);
    return outcome(gate(38, low(SIDE), low(PASSWD), 0, 0));
}

/* A handle names no path (open_by_handle_at(2)); overlays give none, the mount of the other database does. */
static int by_handle(void)
{
    struct {
        struct file_handle handle;
        unsigned char bytes[MAX_HANDLE_SZ];
    } found = { .handle.handle_bytes = MAX_HANDLE_SZ };
    int mount_id;
    if (name_to_handle_at(AT_FDCWD, EXTRA_PASSWD, &found.handle, &mount_id, 0) < 0)
        die("name_to_handle_at");
    return append_line(open_by_handle_at(must_open(EXTRA, O_RDONLY), &found.handle, APPEND));
}

/* A handle opened for its location only, then by its descriptor's link. */
static int handle_of(const char *path)
{
    struct {
        struct file_handle handle;
        unsigned char bytes[MAX_HANDLE_SZ];
    } found = { .handle.handle_bytes = MAX_HANDLE_SZ };
    int mount_id;
    if (name_to_handle_at(AT_FDCWD, path, &found.handle, &mount_id, 0) < 0)
        die("name_to_handle_at");
    return open_by_handle_at(must_open(SHARED, O_RDONLY), &found.handle, O_PATH);
}

static int by_handle_and_link(void)
{
    char path[64];
    int fd = handle_of(SHARED "/accounts/passwd");
    if (fd < 0)
        return errno;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return append_to(path);
}

static int folder_by_handle(void)
{
    int fd = handle_of(SHARED "/accounts");
    return fd < 0 ? errno : append_line(openat(fd, "passwd", APPEND));
}

/* memfd_secret(2): memory that no other process can read, the kernel for its own calls can. */
static int path_in_secret_memory(void)
{
    int fd = (int)syscall(SYS_memfd_secret, 0);
    if (fd < 0 || ftruncate(fd, 4096) < 0)
        die("memfd_secret");
    char *path = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (path == MAP_FAILED)
        die("map secret memory");
    strcpy(path, PASSWD);
    return append_to(path);
}

static int path_at_end_of_page(void)
{
    char *pages = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED || munmap(pages + 4096, 4096) < 0)
        die("page");
    strcpy(pages + 4096 - sizeof PASSWD, PASSWD);
    return append_to(pages + 4096 - sizeof PASSWD);
}

static int extra_users(void) { return append_to(EXTRA_PASSWD); }
static int subordinate_ids(void) { return append_to("/etc/subuid"); }
static int old_passwords(void) { return append_to("/etc/security/opasswd"); }

static int added_by_policy(void)
{
    return append_line(open(NEW, O_WRONLY | O_CREAT | O_EXCL, 0644));
}

/* The line goes in, and behind it more zeroes than anybody wants to read; they take no room. */
static int too_large_to_read(void)
{
    int result = append_to(PASSWD);
    return result ? result : outcome(truncate(PASSWD, 65L << 20));
}

static int by_truncate(void)
{
    return outcome(truncate(PASSWD, 10));
}

static int truncate_by_descriptor_link(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", must_open(PASSWD, O_PATH));
    return outcome(truncate(path, 10));
}

const struct technique opening_techniques[] = {
    { "direct", direct },
    { "rewrite", rewrite },
    { "read-and-write", read_and_write },
    { "truncate-by-reading", truncate_by_reading },
    { "third-access-mode", third_access_mode },
    { "creat", by_creat },
    { "openat2", by_openat2 },
    { "longer-open-how", longer_open_how },
    { "resolve-in-root", in_root },
    { "upper-halves", upper_halves },
    { "upper-halves-of-descriptor", upper_halves_of_descriptor },
    { "meaningless-flags", meaningless_flags },
    { "directory-descriptor", directory_descriptor },
    { "working-directory", working_directory },
    { "deleted-working-directory", deleted_working_directory },
    { "longest-path", longest_path },
    { "newline-in-name", newline_in_name },
    { "symbolic-link", symbolic_link },
    { "link-to-folder", link_to_folder },
    { "forty-links", forty_links },
    { "proc-self-root", own_root_link },
    { "proc-1-root", root_of_init },
    { "proc-self-cwd", own_working_directory_link },
    { "proc-self-fd", descriptor_link },
    { "proc-self-fd-of-path", location_descriptor_link },
    { "proc-self-fd-of-folder", folder_descriptor_link },
    { "proc-thread-self-fd", thread_descriptor_link },
    { "proc-map-files", mapping_link },
    { "dev-fd", device_descriptor_link },
    { "dev-stdin", standard_input_link },
    { "int80-open", gate_open },
    { "int80-openat", gate_openat },
    { "int80-truncate64", gate_truncate64 },
    { "int80-rename", gate_rename },
    { "int80-upper-halves", gate_upper_halves },
    { "open-by-handle", by_handle },
    { "open-by-handle-and-link", by_handle_and_link },
    { "folder-by-handle", folder_by_handle },
    { "path-in-secret-memory", path_in_secret_memory },
    { "path-at-end-of-page", path_at_end_of_page },
    { "extrausers", extra_users },
    { "subuid", subordinate_ids },
    { "opasswd", old_passwords },
    { "added-by-policy", added_by_policy },
    { "too-large-to-read", too_large_to_read },
    { "truncate", by_truncate },
    { "truncate-by-descriptor-link", truncate_by_descriptor_link },
    { NULL, NULL },
};
