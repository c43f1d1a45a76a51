/* Directory entries: the database is put in place of the old one, or gets a second name. */
#define _GNU_SOURCE
#include "techniques.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static int rename_over(void)
{
    make_changed_copy(PASSWD, SIDE);
    return outcome(rename(SIDE, PASSWD));
}

static int rename_over_by_descriptors(void)
{
    make_changed_copy(PASSWD, WORK "/passwd");
    return outcome(renameat(must_open(WORK, O_PATH), "passwd", must_open("/etc", O_PATH), "passwd"));
}

static int exchange(void)
{
    make_changed_copy(PASSWD, SIDE);
    return outcome(renameat2(AT_FDCWD, PASSWD, AT_FDCWD, SIDE, RENAME_EXCHANGE));
}

static int move_away_and_into_place(void)
{
    make_changed_copy(PASSWD, SIDE);
    int result = outcome(rename(PASSWD, WORK "/old"));
    return result ? result : outcome(renameat2(AT_FDCWD, SIDE, AT_FDCWD, PASSWD, RENAME_NOREPLACE));
}

static int away_and_back(void)
{
    int result = outcome(rename(PASSWD, WORK "/old"));
    if (result == 0)
        result = append_to(WORK "/old");
    return result ? result : outcome(rename(WORK "/old", PASSWD));
}

/* rename(2), RENAME_WHITEOUT: leaves a device 0,0 behind; not on overlays, but on the mount of the other database. */
static int whiteout(void)
{
    return outcome(renameat2(AT_FDCWD, EXTRA_PASSWD, AT_FDCWD, EXTRA "/moved", RENAME_WHITEOUT));
}

static int rename_etc(void)
{
    make_changed_folder("/etc", "/etc.new");
    int result = outcome(rename("/etc", "/etc.old"));
    return result ? result : outcome(rename("/etc.new", "/etc"));
}

static int exchange_etc(void)
{
    make_changed_folder("/etc", "/etc.new");
    return outcome(renameat2(AT_FDCWD, "/etc.new", AT_FDCWD, "/etc", RENAME_EXCHANGE));
}

static void make_drop_in(const char *path)
{
    static const char user[] = "{\"userName\":\"mallory\",\"uid\":0,\"gid\":0,\"shell\":\"/bin/sh\"}\n";
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    if (fd < 0 || write(fd, user, strlen(user)) < 0)
        die(path);
    close(fd);
}

static int folder_of_policy(void)
{
    must_make_folder("/srv/other");
    make_changed_copy(PASSWD, "/srv/other/new");
    int result = outcome(rename(NEW_FOLDER, "/srv/old"));
    return result ? result : outcome(rename("/srv/other", NEW_FOLDER));
}

static int folder_of_policy_by_link(void)
{
    must_make_folder(WORK "/accounts");
    make_changed_copy(PASSWD, WORK "/accounts/new");
    int result = outcome(rmdir(NEW_FOLDER));
    return result ? result : outcome(symlink(WORK "/accounts", NEW_FOLDER));
}

static int user_record(void)
{
    must_make_folder("/etc/userdb");
    int fd = open("/etc/userdb/mallory.user", O_WRONLY | O_CREAT, 0644);
    return append_line(fd);
}

static int user_records_by_rename(void)
{
    must_make_folder("/etc/records");
    make_drop_in("/etc/records/mallory.user");
    return outcome(rename("/etc/records", "/etc/userdb"));
}

static int user_records_by_link(void)
{
    must_make_folder(WORK "/records");
    make_drop_in(WORK "/records/mallory.user");
    must_make_folder("/run");
    return outcome(symlink(WORK "/records", "/run/userdb"));
}

/* More entries in a folder of databases than anybody wants to list. mkdir(2) opens nothing and replaces nothing. */
static int crowded_folder(void)
{
    char path[64];
    must_make_folder("/run");
    must_make_folder("/run/userdb");
    for (int i = 0; i < 5000; i++) {
        snprintf(path, sizeof path, "/run/userdb/%d", i);
        must_make_folder(path);
    }
    return append_to(PASSWD);
}

/* One folder of databases leads nowhere; another database is what is changed. */
static int beside_link(const char *target)
{
    must_make_folder("/run");
    int result = outcome(symlink(target, "/run/userdb"));
    int appended = append_to(PASSWD);
    return result ? result : appended;
}

static int beside_looping_folder(void) { return beside_link("/run/userdb"); }
static int beside_proc_folder(void) { return beside_link("/proc/1/root/tmp"); }

/* link(2) gives a symbolic link itself a second name. */
static int user_records_by_hard_linked_link(void)
{
    must_make_folder(WORK "/records");
    make_drop_in(WORK "/records/mallory.user");
    must_make_folder("/run");
    if (symlink(WORK "/records", "/run/records") < 0)
        die("link");
    return outcome(link("/run/records", "/run/userdb"));
}

static int user_record_by_hard_link(void)
{
    must_make_folder("/run");
    must_make_folder("/run/userdb");
    make_drop_in("/run/record");
    return outcome(link("/run/record", "/run/userdb/mallory.user"));
}

static int hard_link(void)
{
    int result = outcome(link(PASSWD, WORK "/alias"));
    return result ? result : append_to(WORK "/alias");
}

/* linkat(2): with AT_SYMLINK_FOLLOW a descriptor's link gives the file a new name. */
static int hard_link_of_descriptor(void)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", must_open(PASSWD, O_RDONLY));
    int result = outcome(linkat(AT_FDCWD, path, AT_FDCWD, "/etc/alias", AT_SYMLINK_FOLLOW));
    return result ? result : append_to("/etc/alias");
}

static int hard_link_of_empty_path(void)
{
    int fd = must_open(PASSWD, O_PATH);
    int result = outcome(linkat(fd, "", AT_FDCWD, WORK "/alias", AT_EMPTY_PATH));
    return result ? result : append_to(WORK "/alias");
}

/* The root file system came with this second name. */
static int hard_link_of_image(void)
{
    return append_to("/jail/passwd");
}

static int unnamed_file(void)
{
    char path[64];
    int fd = open("/etc", O_TMPFILE | O_RDWR, 0644);
    if (fd < 0)
        return errno;
    int from = must_open(PASSWD, O_RDONLY);
    char bytes[8192];
    ssize_t length = read(from, bytes, sizeof bytes);
    if (length < 0 || write(fd, bytes, (size_t)length) < 0 || write(fd, LINE, strlen(LINE)) < 0)
        die("unnamed file");
    int result = outcome(unlink(PASSWD));
    if (result)
        return result;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return outcome(linkat(AT_FDCWD, path, AT_FDCWD, PASSWD, AT_SYMLINK_FOLLOW));
}

static int remove_and_make(void)
{
    int result = outcome(unlink(PASSWD));
    return result ? result : append_line(open(PASSWD, O_WRONLY | O_CREAT | O_EXCL, 0644));
}

static int link_in_its_place(void)
{
    make_changed_copy(PASSWD, SIDE);
    int result = outcome(unlink(PASSWD));
    return result ? result : outcome(symlink(SIDE, PASSWD));
}

/* Where it leads depends on who asks: nobody outside can follow it. */
static int proc_link_in_its_place(void)
{
    make_changed_copy(PASSWD, SIDE);
    int result = outcome(unlink(PASSWD));
    return result ? result : outcome(symlink("/proc/self/root" SIDE, PASSWD));
}

static int pipe_in_its_place(void)
{
    int result = outcome(unlink(PASSWD));
    return result ? result : outcome(mkfifo(PASSWD, 0644));
}

static int link_for_missing(void)
{
    make_changed_copy(PASSWD, SIDE);
    return outcome(symlink(SIDE, NEW));
}

/* open(2): O_CREAT without O_EXCL makes what a dangling link leads to. */
static int dangling_link(void)
{
    if (symlink(NEW, WORK "/dangling") < 0)
        die("link");
    return append_line(open(WORK "/dangling", O_WRONLY | O_CREAT, 0644));
}

static int hard_link_for_missing(void)
{
    make_changed_copy(PASSWD, SIDE);
    return outcome(link(SIDE, NEW));
}

const struct technique naming_techniques[] = {
    { "rename-over", rename_over },
    { "rename-over-by-descriptors", rename_over_by_descriptors },
    { "exchange", exchange },
    { "move-away-and-into-place", move_away_and_into_place },
    { "away-and-back", away_and_back },
    { "whiteout", whiteout },
    { "rename-etc", rename_etc },
    { "exchange-etc", exchange_etc },
    { "rename-folder-of-policy", folder_of_policy },
    { "folder-of-policy-by-link", folder_of_policy_by_link },
    { "userdb", user_record },
    { "beside-crowded-folder", crowded_folder },
    { "beside-looping-folder", beside_looping_folder },
    { "beside-proc-folder", beside_proc_folder },
    { "userdb-by-rename", user_records_by_rename },
    { "userdb-by-symbolic-link", user_records_by_link },
    { "userdb-by-hard-linked-link", user_records_by_hard_linked_link },
    { "userdb-by-hard-link", user_record_by_hard_link },
    { "hard-link", hard_link },
    { "hard-link-of-descriptor", hard_link_of_descriptor },
    { "hard-link-of-empty-path", hard_link_of_empty_path },
    { "hard-link-of-image", hard_link_of_image },
    { "unnamed-file", unnamed_file },
    { "remove-and-make", remove_and_make },
    { "link-in-its-place", link_in_its_place },
    { "proc-link-in-its-place", proc_link_in_its_place },
    { "pipe-in-its-place", pipe_in_its_place },
    { "link-for-missing", link_for_missing },
    { "dangling-link", dangling_link },
    { "hard-link-for-missing", hard_link_for_missing },
    { NULL, NULL },
};
