/*
 * The techniques written in C: each changes an account database by one way round the plain open(2).
 *
 * Every technique returns 0 when each of its calls went through, else the errno of the one that did not; what it was told is
 * not believed by anybody: the host compares the databases.
 */
#ifndef TECHNIQUES_H
#define TECHNIQUES_H

#include <stddef.h>
#include <sys/types.h>

#define PASSWD "/etc/passwd"
/* A database on a mount of its own. */
#define EXTRA "/var/lib/extrausers"
#define EXTRA_PASSWD EXTRA "/passwd"
/* A database that policy adds; nobody has made it, its folder belongs to this container alone. */
#define NEW_FOLDER "/srv/accounts"
#define NEW NEW_FOLDER "/new"
#define WORK "/tmp/work"
#define SIDE WORK "/side"
#define LINE "mallory:x:0:0::/root:/bin/sh\n"
/* A folder that a second container has too. */
#define SHARED "/shared"
#define OTHER_UID 1000

struct technique {
    const char *name;
    int (*change)(void);
};

extern const struct technique opening_techniques[];
extern const struct technique naming_techniques[];
extern const struct technique mounting_techniques[];
extern const struct technique descriptor_techniques[];
extern const struct technique process_techniques[];
extern const struct technique right_techniques[];

/* Ends the process: what the technique needs before it begins is not there. */
void die(const char *what) __attribute__((noreturn));

/* Writes the line to an open database, closes it. A negative descriptor gives errno. */
int append_line(int fd);

/* Opens `path` for appending and writes the line. */
int append_to(const char *path);

/* errno when `result` is negative, else 0. */
int outcome(long result);

/* A file at `path` with what is in `original` and the line behind it. */
void make_changed_copy(const char *original, const char *path);

/* A copy of every file directly in `from`, mode kept; the one called passwd gets the line. */
void make_changed_folder(const char *from, const char *to);

/* Opens or ends the process. */
int must_open(const char *path, int flags);
void must_make_folder(const char *path);

/* Waits for `child` and gives its exit status. */
int status_of(pid_t child);

/* fork(2) or the end of the process. */
pid_t must_fork(void);

/* Sends and receives an open descriptor. */
void send_descriptor(int socket, int fd);
int receive_descriptor(int socket);

#endif
