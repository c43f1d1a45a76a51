// As load.c, in Go, whose runtime interrupts its threads with signals all the time.
// usage: load audit|enforce TAG
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	slow  = 5 * time.Millisecond
	apart = 1300 * time.Millisecond
)

var (
	guard     sync.Mutex
	calls     = map[string]int{}
	attempts  = map[string]int{}
	worst     time.Duration
	worstCall = "none"
)

func say(words ...any) {
	guard.Lock()
	defer guard.Unlock()
	fmt.Println(words...)
}

// Nanoseconds of CLOCK_MONOTONIC, which other programs share.
func now() int64 {
	var spec syscall.Timespec
	syscall.Syscall(syscall.SYS_CLOCK_GETTIME, 1, uintptr(unsafe.Pointer(&spec)), 0)
	return spec.Nano()
}

// Does what must succeed; again is what it ends with when it is done a second time.
func must(name string, again error, path string, do func() error) bool {
	started := now()
	err := do()
	ended := now()
	took := time.Duration(ended - started)
	guard.Lock()
	calls[name]++
	if took > worst {
		worst, worstCall = took, name
	}
	guard.Unlock()
	if took > slow {
		say("slow", started, ended)
	}
	switch {
	case err == nil:
		return true
	case again != nil && errors.Is(err, again):
		say("doubled", name, path)
	default:
		say("failed", name, strings.ReplaceAll(err.Error(), " ", "_"), path)
	}
	return false
}

func put(name string, again error, path string, flags int, text string) {
	var file *os.File
	open := func() (err error) {
		file, err = os.OpenFile(path, flags, 0o644)
		return err
	}
	if !must(name, again, path, open) {
		// told; what follows goes on with the file that is there
		flags &^= os.O_EXCL
		if again == nil || !must(name, nil, path, open) {
			return
		}
	}
	if _, err := file.WriteString(text); err != nil {
		say("failed write", strings.ReplaceAll(err.Error(), " ", "_"), path)
	}
	file.Close()
}

func round(folder string, number int) {
	one, two := fmt.Sprintf("%s/load-%d-one", folder, number), fmt.Sprintf("%s/load-%d-two", folder, number)
	exists, missing := error(syscall.EEXIST), error(syscall.ENOENT)
	put("openat-exclusive", exists, one, os.O_WRONLY|os.O_CREATE|os.O_EXCL, "one")
	must("linkat", exists, two, func() error { return syscall.Link(one, two) })
	must("unlinkat", missing, one, func() error { return syscall.Unlink(one) })
	must("renameat", missing, two, func() error { return syscall.Rename(two, one) })
	must("truncate", nil, one, func() error { return syscall.Truncate(one, 2) })
	if text, err := os.ReadFile(one); err != nil || string(text) != "on" {
		say("failed truncate WITHOUT-EFFECT", one)
	}
	must("fchmodat", nil, one, func() error { return syscall.Chmod(one, 0o600) })
	must("symlinkat", exists, two, func() error { return syscall.Symlink("nowhere", two) })
	must("unlinkat", missing, two, func() error { return syscall.Unlink(two) })
	must("mkdirat", exists, two, func() error { return syscall.Mkdir(two, 0o755) })
	must("unlinkat", missing, two, func() error { return syscall.Rmdir(two) })
	must("unlinkat", missing, one, func() error { return syscall.Unlink(one) })
}

func stopped() bool {
	_, err := os.Stat("/stop")
	return err == nil
}

func keepGoing(folder, record string) {
	number := 0
	for ; !stopped(); number++ {
		put("openat-append", nil, record, os.O_WRONLY|os.O_APPEND|os.O_CREATE, fmt.Sprintln(number))
		round(folder, number)
		if number%50 == 49 {
			must("execve", nil, "/bin/true", func() error { return exec.Command("/bin/true").Run() })
		}
		time.Sleep(10 * time.Millisecond)
	}
	text, _ := os.ReadFile(record)
	seen := map[string]bool{}
	for _, line := range strings.Fields(string(text)) {
		if seen[line] {
			say("doubled append", record)
		}
		seen[line] = true
	}
	if len(seen) != number {
		say("failed append WITHOUT-EFFECT", record)
	}
}

func add(tag string, number int) {
	name := fmt.Sprintf("%s-%d", tag, number)
	line := fmt.Sprintf("%s:x:%d:1000::/nowhere:/bin/false\n", name, 400000+number)
	put("openat-database", nil, "/etc/passwd", os.O_WRONLY|os.O_APPEND, line)
	say("account", name)
}

func attempt(number int) {
	kind, err := "openat", error(nil)
	if number%2 == 0 {
		_, err = os.OpenFile("/etc/passwd", os.O_WRONLY|os.O_APPEND, 0)
	} else {
		kind, err = "renameat", syscall.Rename("/tmp/load-other", "/etc/passwd")
	}
	guard.Lock()
	attempts[kind]++
	calls[kind+"-database"]++
	guard.Unlock()
	if err == nil || !errors.Is(err, syscall.EPERM) {
		say("failed", kind, strings.ReplaceAll(fmt.Sprint(err), " ", "_"), "/etc/passwd")
	}
}

func main() {
	mode, tag := os.Args[1], os.Args[2]
	os.Mkdir("/tmp/load", 0o755)
	os.WriteFile("/tmp/load-other", []byte("root::0:0:::\n"), 0o644)
	var all sync.WaitGroup
	for place, folder := range []string{"/tmp", "/etc", "/tmp/load"} {
		all.Add(1)
		go func(folder, record string) {
			keepGoing(folder, record)
			all.Done()
		}(folder, fmt.Sprintf("/tmp/load-record-%d", place))
	}
	say("ready")
	for number := 0; !stopped(); number++ {
		time.Sleep(apart)
		if mode == "audit" {
			add(tag, number)
		} else {
			attempt(number)
		}
	}
	all.Wait()
	for name, count := range calls {
		say("call", name, count)
	}
	for kind, count := range attempts {
		say("attempt", kind, count, count)
	}
	say("worst", worstCall, worst.Nanoseconds())
	say("done")
}
