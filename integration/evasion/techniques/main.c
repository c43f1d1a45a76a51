/*
 *   evasion NAME            carries out the technique NAME; the exit status is an errno, 0 when every call went through
 *   evasion names           prints the names
 *   evasion stage WORD...   runs WORD..., prints "ended STATUS", and stays until it is killed
 */
#define _GNU_SOURCE
#include "techniques.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <dirent.h>
#include <unistd.h>

static const struct technique *const families[] = {
    opening_techniques, naming_techniques, mounting_techniques, descriptor_techniques, process_techniques, right_techniques,
};
#define FAMILIES (sizeof families / sizeof families[0])

void die(const char *what)
{
    fprintf(stderr, "evasion: %s: %s\n", what, strerror(errno));
    _exit(200);
}

int outcome(long result)
{
    return result < 0 ? errno : 0;
}

int append_line(int fd)
{
    if (fd < 0)
        return errno;
    int result = outcome(write(fd, LINE, strlen(LINE)));
    close(fd);
    return result;
}

int append_to(const char *path)
{
    return append_line(open(path, O_WRONLY | O_APPEND));
}

static void copy_into(int from, int to)
{
    char bytes[4096];
    ssize_t length;
    while ((length = read(from, bytes, sizeof bytes)) > 0)
        if (write(to, bytes, (size_t)length) != length)
            die("copy");
    if (length < 0)
        die("read");
}

static void copy_file(const char *original, const char *path, int changed)
{
    struct stat status;
    int from = must_open(original, O_RDONLY);
    int to = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (to < 0 || fstat(from, &status) < 0)
        die(path);
    copy_into(from, to);
    if (changed && write(to, LINE, strlen(LINE)) < 0)
        die(path);
    if (fchmod(to, status.st_mode & 07777) < 0)
        die(path);
    close(from);
    close(to);
}

void make_changed_copy(const char *original, const char *path)
{
    copy_file(original, path, 1);
}

void make_changed_folder(const char *from, const char *to)
{
    char source[600], destination[600];
    struct stat status;
    DIR *folder = opendir(from);
    if (!folder)
        die(from);
    must_make_folder(to);
    for (struct dirent *entry; (entry = readdir(folder));) {
        snprintf(source, sizeof source, "%s/%s", from, entry->d_name);
        snprintf(destination, sizeof destination, "%s/%s", to, entry->d_name);
        if (lstat(source, &status) == 0 && S_ISREG(status.st_mode))
            copy_file(source, destination, strcmp(entry->d_name, "passwd") == 0);
    }
    closedir(folder);
}

int must_open(const char *path, int flags)
{
    int fd = open(path, flags | O_CLOEXEC);
    if (fd < 0)
        die(path);
    return fd;
}

void must_make_folder(const char *path)
{
    if (mkdir(path, 0755) < 0 && errno != EEXIST)
        die(path);
}

int status_of(pid_t child)
{
    int status;
    if (waitpid(child, &status, __WALL) < 0)
        die("wait");
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

pid_t must_fork(void)
{
    pid_t child = fork();
    if (child < 0)
        die("fork");
    return child;
}

union control {
    char bytes[CMSG_SPACE(sizeof(int))];
    struct cmsghdr header;
};

void send_descriptor(int socket, int fd)
{
    char byte = 'd';
    struct iovec data = { &byte, 1 };
    union control control = { { 0 } };
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
    };
    control.header.cmsg_level = SOL_SOCKET;
    control.header.cmsg_type = SCM_RIGHTS;
    control.header.cmsg_len = CMSG_LEN(sizeof fd);
    memcpy(CMSG_DATA(&control.header), &fd, sizeof fd);
    if (sendmsg(socket, &message, 0) < 0)
        die("send a descriptor");
}

int receive_descriptor(int socket)
{
    char byte;
    int fd;
    struct iovec data = { &byte, 1 };
    union control control = { { 0 } };
    struct msghdr message = {
        .msg_iov = &data, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof control.bytes
    };
    if (recvmsg(socket, &message, 0) <= 0 || control.header.cmsg_type != SCM_RIGHTS) {
        errno = EBADF;
        return -1;
    }
    memcpy(&fd, CMSG_DATA(&control.header), sizeof fd);
    return fd;
}

static int stage(char **words)
{
    pid_t child = must_fork();
    if (child == 0) {
        execv(words[0], words);
        die(words[0]);
    }
    printf("ended %d\n", status_of(child));
    fflush(stdout);
    for (;;) {
        while (waitpid(-1, NULL, WNOHANG) > 0)
            ;
        usleep(20000);
    }
}

int main(int count, char **words)
{
    if (count < 2) {
        fprintf(stderr, "usage: evasion NAME | names | stage WORD...\n");
        return 64;
    }
    if (count > 2 && strcmp(words[1], "stage") == 0)
        return stage(words + 2);
    int is_listing = strcmp(words[1], "names") == 0;
    if (!is_listing)
        must_make_folder(WORK);
    for (size_t family = 0; family < FAMILIES; family++)
        for (const struct technique *technique = families[family]; technique->name; technique++) {
            if (is_listing)
                puts(technique->name);
            else if (strcmp(words[1], technique->name) == 0)
                return technique->change();
        }
    if (!is_listing)
        fprintf(stderr, "evasion: there is no technique %s\n", words[1]);
    return is_listing ? 0 : 64;
}
