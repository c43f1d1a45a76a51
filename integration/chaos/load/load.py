"""As load.c, in Python: threads that create, link, rename, exchange and remove files while an account is added or tried now and then.

usage: python3 load.py audit|enforce TAG
"""

import collections
import errno
import os
import subprocess
import sys
import threading
import time

SLOW = 5_000_000
APART = 1.3

MODE, TAG = sys.argv[1], sys.argv[2]
calls = collections.Counter()
attempts = collections.Counter()
worst = (0, "none")
printing = threading.Lock()


def say(*words):
    with printing:
        print(*words, flush=True)


def call(name, again, function, *arguments, **options):
    """`again` is the errno of a call that is done a second time."""
    global worst
    started = time.monotonic_ns()
    try:
        return function(*arguments, **options)
    except OSError as error:
        if again and error.errno == again:
            say("doubled", name, arguments[0])
        else:
            say("failed", name, errno.errorcode.get(error.errno, error.errno), arguments[0])
        return None
    finally:
        ended = time.monotonic_ns()
        with printing:
            calls[name] += 1
            worst = max(worst, (ended - started, name))
        if ended - started > SLOW:
            say("slow", started, ended)


def put(name, again, path, flags, text):
    fd = call(name, again, os.open, path, flags, 0o644)
    if fd is None and again:
        # told; what follows goes on with the file that is there
        fd = call(name, 0, os.open, path, flags & ~os.O_EXCL, 0o644)
    if fd is not None:
        os.write(fd, text.encode())
        os.close(fd)


def content(path):
    try:
        with open(path) as file:
            return file.read()
    except OSError as error:
        return str(error)


def one_round(folder, number):
    one, two = f"{folder}/load-{number}-one", f"{folder}/load-{number}-two"
    new = os.O_WRONLY | os.O_CREAT | os.O_EXCL
    put("open-exclusive", errno.EEXIST, one, new, "one")
    call("link", errno.EEXIST, os.link, one, two)
    call("unlink", errno.ENOENT, os.unlink, one)
    call("rename", errno.ENOENT, os.rename, two, one)
    call("truncate", 0, os.truncate, one, 2)
    if content(one) != "on":
        say("failed truncate WITHOUT-EFFECT", one)
    call("chmod", 0, os.chmod, one, 0o600)
    call("symlink", errno.EEXIST, os.symlink, "nowhere", two)
    call("unlink", errno.ENOENT, os.unlink, two)
    call("mkdir", errno.EEXIST, os.mkdir, two)
    call("rmdir", errno.ENOENT, os.rmdir, two)
    call("unlink", errno.ENOENT, os.unlink, one)


def keep_going(folder, record):
    number = 0
    while not os.path.exists("/stop"):
        put("open-append", 0, record, os.O_WRONLY | os.O_APPEND | os.O_CREAT, f"{number}\n")
        one_round(folder, number)
        number += 1
        if number % 50 == 0:
            calls["execve"] += 1
            if subprocess.run(["/bin/true"]).returncode:
                say("failed execve 0 /bin/true")
        time.sleep(0.01)
    lines = content(record).split()
    for line, count in collections.Counter(lines).items():
        if count > 1:
            say("doubled append", record, line)
    if len(set(lines)) != number:
        say("failed append WITHOUT-EFFECT", record)


def add(number):
    name = f"{TAG}-{number}"
    line = f"{name}:x:{200_000 + number}:1000::/nowhere:/bin/false\n"
    put("open-database", 0, "/etc/passwd", os.O_WRONLY | os.O_APPEND, line)
    say("account", name)


def attempt(number):
    kind, function, *arguments = (
        ("openat", os.open, "/etc/passwd", os.O_WRONLY | os.O_APPEND),
        ("rename", os.rename, "/tmp/load-other", "/etc/passwd"),
    )[number % 2]
    attempts[kind] += 1
    calls[f"{kind}-database"] += 1
    try:
        function(*arguments)
        say("failed", kind, 0, "/etc/passwd")
    except OSError as error:
        if error.errno != errno.EPERM:
            say("failed", kind, errno.errorcode.get(error.errno, error.errno), "/etc/passwd")


def main():
    os.mkdir("/tmp/load")
    with open("/tmp/load-other", "w") as file:
        file.write("root::0:0:::\n")
    folders = ["/tmp", "/etc", "/tmp/load"]
    threads = [threading.Thread(target=keep_going, args=(folder, f"/tmp/load-record-{place}"))
               for place, folder in enumerate(folders)]
    for thread in threads:
        thread.start()
    say("ready")
    number = 0
    while not os.path.exists("/stop"):
        time.sleep(APART)
        (add if MODE == "audit" else attempt)(number)
        number += 1
    for thread in threads:
        thread.join()
    for name, count in calls.items():
        say("call", name, count)
    for kind, count in attempts.items():
        say("attempt", kind, count, count)
    say("worst", worst[1], worst[0])
    say("done")


main()
