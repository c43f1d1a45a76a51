#!/bin/sh
# As load.c, by busybox: a program for each call. usage: load.sh audit|enforce TAG
mode=$1 tag=$2
attempts=0 number=0

# Runs a program that must succeed; when its words name what a second time ends with, it was done twice.
must() {
    call=$1 again=$2
    shift 2
    said=$("$@" 2>&1) && return
    case $said in
    *"$again"*) echo "doubled $call $*" ;;
    *) echo "failed $call $(echo "$said" | tr ' \n' '__') $*" ;;
    esac
}

seconds() {
    cut -d. -f1 /proc/uptime
}

create() {
    (set -C && : >"$1") || return 1
}

one_round() {
    one=$1/load-$number-one two=$1/load-$number-two
    must openat-exclusive "File exists" create "$one"
    must link "File exists" ln "$one" "$two"
    must unlink "No such file" rm "$one"
    must rename "No such file" mv "$two" "$one"
    must truncate none truncate -s 7 "$one"
    must chmod none chmod 600 "$one"
    must symlink "File exists" ln -s nowhere "$two"
    must unlink "No such file" rm "$two"
    must mkdir "File exists" mkdir "$two"
    must rmdir "No such file" rmdir "$two"
    must unlink "No such file" rm "$one"
    echo "$number" >>/tmp/load-record || echo "failed openat-append ? /tmp/load-record"
}

change() {
    if [ "$mode" = audit ]; then
        if echo "$tag-$number:x:$((300000 + number)):1000::/nowhere:/bin/false" >>/etc/passwd; then
            echo "account $tag-$number"
        else
            echo "failed openat-database ? /etc/passwd"
        fi
        return
    fi
    attempts=$((attempts + 1))
    said=$( (echo >>/etc/passwd) 2>&1) && echo "failed openat 0 /etc/passwd"
    case $said in
    *"Operation not permitted"*) ;;
    *) echo "failed openat $(echo "$said" | tr ' \n' '__') /etc/passwd" ;;
    esac
}

mkdir -p /tmp/load
echo ready
next=$(($(seconds) + 2))
until [ -e /stop ]; do
    case $((number % 3)) in
    0) one_round /tmp ;;
    1) one_round /etc ;;
    2) one_round /tmp/load ;;
    esac
    if [ "$(seconds)" -gt "$next" ]; then
        change
        next=$(($(seconds) + 2))
    fi
    number=$((number + 1))
    sleep 0.05
done

sort -n /tmp/load-record | uniq -d | sed 's/^/doubled append /'
[ "$(sort -n /tmp/load-record | uniq | wc -l)" -eq "$number" ] || echo "failed append WITHOUT-EFFECT /tmp/load-record"
for call in openat-append openat-exclusive link rename truncate chmod symlink mkdir rmdir; do
    echo "call $call $number"
done
echo "call unlink $((number * 3))"
echo "call execve $((number * 10))"
[ "$mode" = audit ] || echo "attempt openat $attempts $attempts"
echo done
