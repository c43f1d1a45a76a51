/* Somebody else is given the right to write, and writes. */
#define _GNU_SOURCE
#include "techniques.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#define FCHMODAT2 452  /* Linux 6.6 */
#define SETXATTRAT 463 /* Linux 6.13 */

/* acl(5) as linux/posix_acl_xattr.h lays it out: uid 1000 may write. */
static const unsigned char acl[] = {
    2, 0, 0, 0,
    0x01, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
    0x02, 0, 6, 0, 0xe8, 0x03, 0, 0,
    0x04, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
    0x10, 0, 6, 0, 0xff, 0xff, 0xff, 0xff,
    0x20, 0, 4, 0, 0xff, 0xff, 0xff, 0xff,
};
#define ACL_NAME "system.posix_acl_access"

static void become_other(void)
{
    if (setgroups(0, NULL) < 0 || setgid(OTHER_UID) < 0 || setuid(OTHER_UID) < 0)
        die("become the other user");
}

/* The other user writes whatever became of the first call: only what lasts counts. */
static int other_writes(long first)
{
    int result = outcome(first);
    pid_t child = must_fork();
    if (child == 0) {
        become_other();
        _exit(append_to(PASSWD));
    }
    int status = status_of(child);
    return result ? result : status;
}

static int mode(void) { return other_writes(chmod(PASSWD, 0666)); }
static int mode_by_descriptor(void) { return other_writes(fchmod(must_open(PASSWD, O_RDONLY), 0666)); }
static int owner(void) { return other_writes(chown(PASSWD, OTHER_UID, OTHER_UID)); }
static int access_list(void) { return other_writes(setxattr(PASSWD, ACL_NAME, acl, sizeof acl, 0)); }

static int access_list_by_descriptor(void)
{
    return other_writes(fsetxattr(must_open(PASSWD, O_RDONLY), ACL_NAME, acl, sizeof acl, 0));
}

static int mode_with_flags(void)
{
    return other_writes(syscall(FCHMODAT2, must_open(PASSWD, O_PATH), "", 0666, AT_EMPTY_PATH));
}

/* The call that libraries know last. */
static int access_list_with_flags(void)
{
    struct {
        uint64_t value;
        uint32_t size, flags;
    } arguments = { (uintptr_t)acl, sizeof acl, 0 };
    return other_writes(syscall(SETXATTRAT, AT_FDCWD, PASSWD, 0, ACL_NAME, &arguments, sizeof arguments));
}

/* capabilities(7), "File capabilities": the other user's copy of this program may write anywhere. */
static int capable_program(void)
{
    static const unsigned char capability[20] = { 0x01, 0, 0, 2, 0x02 }; /* version 2, effective, CAP_DAC_OVERRIDE */
    make_changed_copy("/proc/self/exe", WORK "/tool");
    if (chmod(WORK "/tool", 0755) < 0 || chmod(WORK, 0777) < 0 ||
        setxattr(WORK "/tool", "security.capability", capability, sizeof capability, 0) < 0)
        die("capable program");
    pid_t child = must_fork();
    if (child == 0) {
        become_other();
        execl(WORK "/tool", "tool", "direct", (char *)NULL);
        die("exec");
    }
    return status_of(child);
}

static int set_user_id_program(void)
{
    make_changed_copy("/proc/self/exe", WORK "/tool");
    if (chmod(WORK "/tool", 04755) < 0 || chmod(WORK, 0777) < 0)
        die("set-user-id program");
    pid_t child = must_fork();
    if (child == 0) {
        become_other();
        execl(WORK "/tool", "tool", "direct", (char *)NULL);
        die("exec");
    }
    return status_of(child);
}

const struct technique right_techniques[] = {
    { "chmod-then-other-uid", mode },
    { "fchmod-then-other-uid", mode_by_descriptor },
    { "fchmodat2-then-other-uid", mode_with_flags },
    { "chown-then-other-uid", owner },
    { "acl-then-other-uid", access_list },
    { "acl-by-descriptor", access_list_by_descriptor },
    { "acl-by-setxattrat", access_list_with_flags },
    { "capable-copy", capable_program },
    { "set-user-id-copy", set_user_id_program },
    { NULL, NULL },
};
