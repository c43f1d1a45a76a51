/* Mounts, roots and namespaces: other databases in place, or the same ones by another way. */
#define _GNU_SOURCE
#include "techniques.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mount.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* sys/mount.h and linux/mount.h cannot be had together. */
int mount(const char *, const char *, const char *, unsigned long, const void *);
int umount2(const char *, int);

#define DETACH 2
#define HERE AT_FDCWD
#define OPEN_TREE_ATTR 467 /* Linux 6.15 */

static int must_clone(const char *path)
{
    int tree = (int)syscall(SYS_open_tree, HERE, path, OPEN_TREE_CLONE);
    if (tree < 0)
        die("open_tree");
    return tree;
}

static int put(int tree, int directory, const char *path, unsigned flags)
{
    return outcome(syscall(SYS_move_mount, tree, "", directory, path, MOVE_MOUNT_F_EMPTY_PATH | flags));
}

/* A file system of one folder's copies, mounted at `place`. */
static void must_mount_copies(const char *from, const char *place)
{
    must_make_folder(place);
    if (mount("none", place, "tmpfs", 0, NULL) < 0)
        die("mount a tmpfs");
    make_changed_folder(from, place);
}

static int mount_over(void)
{
    make_changed_copy(PASSWD, SIDE);
    return outcome(mount(SIDE, PASSWD, NULL, MS_BIND, NULL));
}

static int mount_over_by_descriptor_link(void)
{
    char path[64];
    make_changed_copy(PASSWD, SIDE);
    snprintf(path, sizeof path, "/proc/self/fd/%d", must_open(PASSWD, O_PATH));
    return outcome(mount(SIDE, path, NULL, MS_BIND, NULL));
}

static int mount_over_etc(void)
{
    make_changed_folder("/etc", WORK "/etc");
    return outcome(mount(WORK "/etc", "/etc", NULL, MS_BIND, NULL));
}

static int tmpfs_over_etc(void)
{
    make_changed_folder("/etc", WORK "/etc");
    int result = outcome(mount("none", "/etc", "tmpfs", 0, NULL));
    if (result == 0)
        make_changed_folder(WORK "/etc", "/etc");
    return result;
}

static int overlay_over_etc(void)
{
    must_make_folder(WORK "/layer");
    if (mount("none", WORK "/layer", "tmpfs", 0, NULL) < 0)
        die("mount a tmpfs");
    must_make_folder(WORK "/layer/upper");
    must_make_folder(WORK "/layer/work");
    make_changed_copy(PASSWD, WORK "/layer/upper/passwd");
    return outcome(mount("none", "/etc", "overlay", 0,
                         "lowerdir=/etc,upperdir=" WORK "/layer/upper,workdir=" WORK "/layer/work"));
}

static int move_a_mount(void)
{
    must_mount_copies("/etc", WORK "/moved");
    if (mount(NULL, WORK "/moved", NULL, MS_PRIVATE, NULL) < 0)
        die("make the mount private");
    return outcome(mount(WORK "/moved", "/etc", NULL, MS_MOVE, NULL));
}

static int by_move_mount(void)
{
    make_changed_copy(PASSWD, SIDE);
    return put(must_clone(SIDE), HERE, PASSWD, 0);
}

static int by_move_mount_to_descriptor(void)
{
    make_changed_copy(PASSWD, SIDE);
    return put(must_clone(SIDE), must_open(PASSWD, O_PATH), "", MOVE_MOUNT_T_EMPTY_PATH);
}

static int new_file_system(void)
{
    int context = (int)syscall(SYS_fsopen, "tmpfs", 0);
    if (context < 0 || syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        die("fsopen");
    make_changed_folder("/etc", WORK "/etc");
    int tree = (int)syscall(SYS_fsmount, context, 0, 0);
    if (tree < 0)
        die("fsmount");
    int result = put(tree, HERE, "/etc", 0);
    if (result == 0)
        make_changed_folder(WORK "/etc", "/etc");
    return result;
}

/* move_mount(2), MOVE_MOUNT_BENEATH (Linux 6.5): under the topmost mount, which is then taken away. */
static int mount_beneath(void)
{
    make_changed_folder(EXTRA, WORK "/extra");
    int result = put(must_clone(WORK "/extra"), HERE, EXTRA, 0x200);
    return result ? result : outcome(umount2(EXTRA, DETACH));
}

static int uncover(void)
{
    return outcome(umount2(EXTRA, DETACH));
}

/* The clone of a database is a second way to it. */
static int clone_of_database(void)
{
    char path[64];
    int tree = (int)syscall(SYS_open_tree, HERE, PASSWD, OPEN_TREE_CLONE);
    if (tree < 0)
        return errno;
    snprintf(path, sizeof path, "/proc/self/fd/%d", tree);
    return append_to(path);
}

static int clone_of_etc(void)
{
    int tree = (int)syscall(SYS_open_tree, HERE, "/etc", OPEN_TREE_CLONE | AT_RECURSIVE);
    return tree < 0 ? errno : append_line(openat(tree, "passwd", O_WRONLY | O_APPEND));
}

/* The call that libraries know last (Linux 6.15): it clones as open_tree does. */
static int clone_with_attributes(void)
{
    int tree = (int)syscall(OPEN_TREE_ATTR, HERE, "/etc", OPEN_TREE_CLONE | AT_RECURSIVE, NULL, 0);
    return tree < 0 ? errno : append_line(openat(tree, "passwd", O_WRONLY | O_APPEND));
}

static int bound_elsewhere(void)
{
    must_make_folder(WORK "/etc");
    int result = outcome(mount("/etc", WORK "/etc", NULL, MS_BIND, NULL));
    return result ? result : append_to(WORK "/etc/passwd");
}

static int file_bound_elsewhere(void)
{
    make_changed_copy(PASSWD, SIDE);
    int result = outcome(mount(PASSWD, SIDE, NULL, MS_BIND, NULL));
    return result ? result : append_to(SIDE);
}

static int root_bound_elsewhere(void)
{
    must_make_folder(WORK "/root");
    int result = outcome(mount("/", WORK "/root", NULL, MS_BIND | MS_REC, NULL));
    return result ? result : append_to(WORK "/root/etc/passwd");
}

/* An overlay whose upper layer is the database's folder: the overlay's file has other numbers, its bytes are the database's. */
static int overlay_with_database_below(void)
{
    must_make_folder(SHARED "/work");
    must_make_folder(WORK "/lower");
    must_make_folder(WORK "/merged");
    int result = outcome(mount("none", WORK "/merged", "overlay", 0,
                               "lowerdir=" WORK "/lower,upperdir=" SHARED "/accounts,workdir=" SHARED "/work"));
    return result ? result : append_to(WORK "/merged/passwd");
}

static void must_configure(int context, const char *key, const char *value)
{
    if (syscall(SYS_fsconfig, context, FSCONFIG_SET_STRING, key, value, 0) < 0)
        die(key);
}

/* The same by the calls that say one thing at a time (fsopen(2), Linux 5.2). */
static int overlay_by_new_calls(void)
{
    must_make_folder(SHARED "/work");
    must_make_folder(WORK "/lower");
    int context = (int)syscall(SYS_fsopen, "overlay", 0);
    if (context < 0)
        return errno;
    must_configure(context, "lowerdir", WORK "/lower");
    must_configure(context, "upperdir", SHARED "/accounts");
    must_configure(context, "workdir", SHARED "/work");
    if (syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return errno;
    int tree = (int)syscall(SYS_fsmount, context, 0, 0);
    return tree < 0 ? errno : append_line(openat(tree, "passwd", O_WRONLY | O_APPEND));
}

static int new_root(void)
{
    must_make_folder(WORK "/root");
    if (mount("none", WORK "/root", "tmpfs", 0, NULL) < 0)
        die("mount a tmpfs");
    must_make_folder(WORK "/root/old");
    must_mount_copies("/etc", WORK "/root/etc");
    return outcome(syscall(SYS_pivot_root, WORK "/root", WORK "/root/old"));
}

static int new_root_and_write(void)
{
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        die("unshare mounts");
    must_make_folder(WORK "/root");
    if (mount("none", WORK "/root", "tmpfs", 0, NULL) < 0)
        die("mount a tmpfs");
    must_make_folder(WORK "/root/old");
    if (syscall(SYS_pivot_root, WORK "/root", WORK "/root/old") < 0)
        return errno;
    return append_to("/old/etc/passwd");
}

static int jail_in_etc(void)
{
    if (chroot("/etc") < 0 || chdir("/") < 0)
        return errno;
    return append_to("/passwd");
}

/* chroot(2): whoever keeps a descriptor outside the new root gets out. */
static int out_of_jail(void)
{
    int outside = must_open("/usr/lib", O_PATH);
    must_make_folder(WORK "/jail");
    if (chroot(WORK "/jail") < 0)
        return errno;
    if (fchdir(outside) < 0)
        die("fchdir");
    return append_to("../../etc/passwd");
}

static int jail_with_link(void)
{
    if (chroot("/jail") < 0 || chdir("/") < 0)
        return errno;
    return append_to("/passwd");
}

static void must_write(const char *path, const char *text)
{
    int fd = must_open(path, O_WRONLY);
    if (write(fd, text, strlen(text)) < 0)
        die(path);
    close(fd);
}

static void enter_user_namespace(int more)
{
    if (unshare(CLONE_NEWUSER | more) < 0)
        die("unshare a user namespace");
    must_write("/proc/self/setgroups", "deny");
    must_write("/proc/self/uid_map", "0 0 1");
    must_write("/proc/self/gid_map", "0 0 1");
}

static int user_namespace(void)
{
    enter_user_namespace(0);
    return append_to(PASSWD);
}

static int user_namespace_and_bind(void)
{
    enter_user_namespace(CLONE_NEWNS);
    must_make_folder(WORK "/etc");
    int result = outcome(mount("/etc", WORK "/etc", NULL, MS_BIND | MS_REC, NULL));
    return result ? result : append_to(WORK "/etc/passwd");
}

static int user_namespace_and_jail(void)
{
    enter_user_namespace(CLONE_NEWNS);
    return jail_in_etc();
}

static int mount_namespace_and_back(void)
{
    int home = must_open("/proc/self/ns/mnt", O_RDONLY);
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        die("unshare mounts");
    if (mount("none", "/etc", "tmpfs", 0, NULL) < 0 && errno != EPERM)
        die("mount a tmpfs");
    if (setns(home, CLONE_NEWNS) < 0)
        die("setns");
    return append_to(PASSWD);
}

/* In a mount namespace of its own something harmless covers the database; the descriptor leads below the cover. */
static int below_own_cover(void)
{
    int etc = must_open("/etc", O_PATH);
    if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        die("unshare mounts");
    if (mount("none", "/etc", "tmpfs", 0, NULL) < 0 && errno != EPERM)
        die("mount a tmpfs");
    return append_line(openat(etc, "passwd", O_WRONLY | O_APPEND));
}

/* In a container that shares its pid namespace: process 1 is the other container's. */
static int mounts_of_neighbour(void)
{
    if (setns(must_open("/proc/1/ns/mnt", O_RDONLY), CLONE_NEWNS) < 0)
        return errno;
    return append_to(PASSWD);
}

/* /proc of another pid namespace: who `self` is depends on who asks. */
static int foreign_proc(void)
{
    must_make_folder(WORK "/proc");
    if (unshare(CLONE_NEWPID | CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        die("unshare a pid namespace");
    pid_t child = must_fork();
    if (child == 0) {
        if (mount("none", WORK "/proc", "proc", 0, NULL) < 0)
            die("mount proc");
        if (chdir("/etc") < 0)
            die("chdir");
        _exit(append_to(WORK "/proc/self/cwd/passwd"));
    }
    return status_of(child);
}

const struct technique mounting_techniques[] = {
    { "mount-over", mount_over },
    { "mount-over-by-descriptor-link", mount_over_by_descriptor_link },
    { "mount-over-etc", mount_over_etc },
    { "tmpfs-over-etc", tmpfs_over_etc },
    { "overlay-over-etc", overlay_over_etc },
    { "move-a-mount", move_a_mount },
    { "move-mount", by_move_mount },
    { "move-mount-to-descriptor", by_move_mount_to_descriptor },
    { "new-file-system", new_file_system },
    { "mount-beneath", mount_beneath },
    { "uncover", uncover },
    { "open-tree-of-database", clone_of_database },
    { "open-tree-of-etc", clone_of_etc },
    { "open-tree-attr", clone_with_attributes },
    { "bound-elsewhere", bound_elsewhere },
    { "file-bound-elsewhere", file_bound_elsewhere },
    { "overlay-with-database-below", overlay_with_database_below },
    { "overlay-by-new-calls", overlay_by_new_calls },
    { "root-bound-elsewhere", root_bound_elsewhere },
    { "pivot-root", new_root },
    { "pivot-root-and-write", new_root_and_write },
    { "chroot-to-etc", jail_in_etc },
    { "chroot-and-out", out_of_jail },
    { "chroot-with-hard-link", jail_with_link },
    { "user-namespace", user_namespace },
    { "user-namespace-and-bind", user_namespace_and_bind },
    { "user-namespace-and-chroot", user_namespace_and_jail },
    { "mount-namespace-and-back", mount_namespace_and_back },
    { "below-own-cover", below_own_cover },
    { "foreign-proc", foreign_proc },
    { "mounts-of-neighbour", mounts_of_neighbour },
    { NULL, NULL },
};
