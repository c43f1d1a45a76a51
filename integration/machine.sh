# What demo and test need of the machine. Sourced by both; defines functions, does nothing.
# shellcheck shell=bash

# Debian packages and how it shows that one is there already, by whatever way it came.
readonly NEEDED_PACKAGES=(
    'runc command -v runc'
    'crun command -v crun'
    'mmdebstrap command -v mmdebstrap'
    'gcc command -v gcc'
    'libc6-dev test -e /usr/include/stdio.h'
    'musl-dev test -e /usr/include/'"$(uname -m)"'-linux-musl/stdio.h'
    'make command -v make'
    'bzip2 command -v bzip2'
    'pkg-config command -v pkg-config'
    'libseccomp-dev test -e /usr/include/seccomp.h'
    'ca-certificates test -d /etc/ssl/certs'
    'debian-archive-keyring test -e /usr/share/keyrings/debian-archive-keyring.gpg'
    'util-linux command -v setpriv'
    'mount command -v umount'
    'systemd test -x /lib/systemd/systemd'
)

say() {
    printf '%s\n' "$*"
}

fail() {
    printf '%s: %s\n' "$program" "$1" >&2
    exit 1
}

need_root() {
    export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:$PATH
    [[ $EUID -eq 0 ]] || fail "root is needed to start containers: sudo $0"
}

# Installs what is missing, named before.
need_packages() {
    need_packages_of "${NEEDED_PACKAGES[@]}"
}

# The same of packages that are named as in NEEDED_PACKAGES.
need_packages_of() {
    local entry package missing=()
    for entry in "$@"; do
        package=${entry%% *}
        ${entry#* } >/dev/null 2>&1 || missing+=("$package")
    done
    if ((${#missing[@]})); then
        command -v apt-get >/dev/null || fail "these Debian packages are missing and there is no apt-get: ${missing[*]}"
        say "installing Debian packages: ${missing[*]}"
        export DEBIAN_FRONTEND=noninteractive
        apt-get -qq update || fail "apt-get update failed: see its lines above"
        apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null ||
            fail "apt-get could not install ${missing[*]}: see its lines above"
    fi
}

need_kernel() {
    local actions=/proc/sys/kernel/seccomp/actions_avail
    [[ -r $actions ]] || fail "this kernel has no seccomp filters: CONFIG_SECCOMP_FILTER is needed"
    grep -qw user_notif "$actions" || fail "this kernel cannot hand system calls to a supervisor: Linux 5.0 or newer is needed"
    grep -qw overlay /proc/filesystems || modprobe overlay 2>/dev/null ||
        fail "this kernel has no overlayfs: CONFIG_OVERLAY_FS is needed"
    unshare --mount true 2>/dev/null || fail "no mount namespace can be made: CAP_SYS_ADMIN is needed"
    [[ $(uname -m) == x86_64 ]] || fail "the tests' own system calls are written for x86_64, this is $(uname -m)"
}

# Sets build=(…): a command in front of cargo's arguments. The user who called sudo builds, so that nothing in target/
# becomes root's; when that user has no cargo, or target/ is root's already, root builds.
find_cargo() {
    local home user=${SUDO_USER-} owner
    owner=$(stat -c %U "$repository/target" 2>/dev/null || printf '%s' "$user")
    if [[ -n $user && $user != root && $owner == "$user" ]]; then
        home=$(getent passwd "$user" | cut -d: -f6)
        if runuser -u "$user" -- env HOME="$home" PATH="$home/.cargo/bin:$PATH" cargo --version >/dev/null 2>&1; then
            build=(runuser -u "$user" -- env HOME="$home" PATH="$home/.cargo/bin:$PATH" cargo)
            return
        fi
    fi
    for home in "$HOME" /root ${user:+"$(getent passwd "$user" | cut -d: -f6)"}; do
        if env HOME="$home" PATH="$home/.cargo/bin:$PATH" cargo --version >/dev/null 2>&1; then
            build=(env HOME="$home" PATH="$home/.cargo/bin:$PATH" cargo)
            return
        fi
    done
    fail "cargo is not found: install it (https://rustup.rs or Debian's rustup) for root or for the user who calls sudo"
}

# Runs a program that starts containers, and clears away what it leaves when it is interrupted.
run_contained() {
    local status=0
    contained_folder=$(mktemp -d /tmp/containers.XXXXXX)
    chmod 755 "$contained_folder"
    trap clear_away EXIT
    trap 'exit 130' INT TERM HUP
    TMPDIR=$contained_folder RUST_BACKTRACE=${RUST_BACKTRACE-0} "$@" &
    contained_pid=$!
    wait "$contained_pid" || status=$?
    clear_away
    trap - EXIT INT TERM HUP
    return "$status"
}

# Ends what is left of the program, its containers by their control groups, and removes its folder.
clear_away() {
    local group pid place
    kill -KILL "$contained_pid" 2>/dev/null || true
    while read -r group; do
        while read -r pid; do
            kill -KILL "$pid" 2>/dev/null || true
        done <"$group/cgroup.procs"
        for _ in {1..50}; do
            rmdir "$group" 2>/dev/null && break
            sleep 0.02
        done
    done < <(left_groups)
    while read -r _ place _; do
        [[ $place != "$contained_folder"/* ]] || umount --lazy "$place" || true
    done < <(tac /proc/self/mounts)
    rm -rf --one-file-system "$contained_folder"
}

left_groups() {
    find /sys/fs/cgroup -maxdepth 2 -type d -name "acctguard-$contained_pid-*" 2>/dev/null
}
